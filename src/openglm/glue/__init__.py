"""GLUE (Wang et al. 2019): fine-tuning for its tasks, judging by its metrics, measuring what that costs."""
