"""What runs inside the emulation, in ARM's Python: graphs in ONNX Runtime, at the word of the host.

It needs numpy and ONNX Runtime and nothing of this package. Requests are lines of JSON on standard input,
answers lines of JSON on standard output; arrays lie in .npz files, in the order that the request names.

    {"load": PATH}                                        {"inputs": [...], "outputs": [...]}
    {"run": INDEX, "names": [...], "arrays": PATH,        {}
     "results": PATH, "warm": N, "times": N}

A graph runs `warm` times and then `times` times, each between two marks that the counter sees. What cannot
be done is answered with {"error": SENTENCE}.
"""

import gc
import json
import os
import sys
from typing import Any

import numpy as np
import onnxruntime


def load(path: str) -> onnxruntime.InferenceSession:
    """A graph on one thread, so that instructions are the same from run to run."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, request: dict[str, Any]) -> None:
    """Read inputs, run, and write the outputs of the last run."""
    with np.load(request["arrays"], allow_pickle=False) as file:
        arrays = {name: file[f"arr_{index}"] for index, name in enumerate(request["names"])}
    for _ in range(request["warm"]):
        session.run(None, arrays)
    for _ in range(request["times"]):
        os.getsid(0)
        found = session.run(None, arrays)
        os.getsid(0)
    np.savez(request["results"], *found)


def main() -> None:
    # Whatever else prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    gc.disable()
    sessions = []
    print(json.dumps({"onnxruntime": onnxruntime.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if "load" in request:
                session = load(request["load"])
                sessions.append(session)
                answer["inputs"] = [item.name for item in session.get_inputs()]
                answer["outputs"] = [item.name for item in session.get_outputs()]
            else:
                run(sessions[request["run"]], request)
        except Exception as error:  # the engine's own kinds share no base
            answer = {"error": str(error).strip() or type(error).__name__}
        gc.collect()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
