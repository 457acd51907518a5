/* Counts the instructions that an emulated program runs, by kind; a plugin for QEMU's user mode.
 *
 * The program marks where a stretch begins and ends with the system call getsid, which nothing else here
 * makes. At every mark the sums so far go into the file of the argument "out", a line of NUMBERS numbers:
 * all instructions, then the vector multiplications of each kind below.
 *
 * Prototypes are those of QEMU's documentation of TCG plugins, of which Debian ships no header. Kinds of
 * instructions are those of the Arm Architecture Reference Manual for A-profile, section C4.1.
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef PLUGIN_VERSION
#define PLUGIN_VERSION 1
#endif

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t plugin_id;
typedef void (*on_exec)(unsigned int cpu, void *data);
typedef void (*on_translation)(plugin_id, struct qemu_plugin_tb *);
typedef void (*on_syscall)(plugin_id, unsigned int cpu, int64_t number, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, on_translation);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, on_exec, int flags, void *data);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id, on_syscall);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t index);
#if PLUGIN_VERSION < 3
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
#else
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);
#endif

enum { ALL, FLOAT, INTEGER, DOT, MATRIX, NUMBERS };

static const struct { uint32_t mask, bits; int kind; } known[] = {
    {0xbf20fc00, 0x0e20cc00, FLOAT},   /* FMLA, FMLS */
    {0xbfa0fc00, 0x2e20dc00, FLOAT},   /* FMUL */
    {0xbf00b400, 0x0f001000, FLOAT},   /* FMLA, FMLS by element */
    {0xbf00f400, 0x0f009000, FLOAT},   /* FMUL by element */
    {0x9f20f400, 0x0e209400, INTEGER}, /* MUL, MLA, MLS */
    {0x9f20cc00, 0x0e208000, INTEGER}, /* SMLAL, UMLAL, SMLSL, UMLSL and their saturating forms */
    {0x9f20ec00, 0x0e20c000, INTEGER}, /* SMULL, UMULL, SQDMULL */
    {0xbf00b400, 0x2f000000, INTEGER}, /* MLA, MLS by element */
    {0xbf00f400, 0x0f008000, INTEGER}, /* MUL by element */
    {0x9f00b400, 0x0f002000, INTEGER}, /* SMLAL, UMLAL, SMLSL, UMLSL by element */
    {0x9f00f400, 0x0f00a000, INTEGER}, /* SMULL, UMULL by element */
    {0x9fe0fc00, 0x0e809400, DOT},     /* SDOT, UDOT */
    {0xbfe0fc00, 0x0e809c00, DOT},     /* USDOT */
    {0x9fc0f400, 0x0f80e000, DOT},     /* SDOT, UDOT by element */
    {0xbf40f400, 0x0f00f000, DOT},     /* USDOT, SUDOT by element */
    {0x9fe0f400, 0x0e80a400, MATRIX},  /* SMMLA, UMMLA, USMMLA */
};

/* Of the main thread, where inference is: ONNX Runtime has another, which the clock wakes. */
static uint64_t sums[NUMBERS];
static FILE *out;

static void executed(unsigned int cpu, void *data)
{
    const uint32_t *block = data;
    if (cpu != 0)
        return;
    for (int kind = 0; kind < NUMBERS; kind++)
        sums[kind] += block[kind];
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb)
{
    uint32_t *block = calloc(NUMBERS, sizeof *block); /* kept for as long as the block may run */
    block[ALL] = (uint32_t)qemu_plugin_tb_n_insns(tb);
    for (size_t index = 0; index < block[ALL]; index++) {
        uint32_t word;
#if PLUGIN_VERSION < 3
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, index)), sizeof word);
#else
        qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, index), &word, sizeof word);
#endif
        for (size_t row = 0; row < sizeof known / sizeof *known; row++)
            if ((word & known[row].mask) == known[row].bits) {
                block[known[row].kind]++;
                break;
            }
    }
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, block);
}

static void called(plugin_id id, unsigned int cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c,
                   uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    if (number != 156) /* getsid */
        return;
    for (int kind = 0; kind < NUMBERS; kind++)
        fprintf(out, "%llu%c", (unsigned long long)sums[kind], kind + 1 < NUMBERS ? ' ' : '\n');
    fflush(out);
}

__attribute__((visibility("default"))) int qemu_plugin_version = PLUGIN_VERSION;

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info, int argc,
                                                               char **argv)
{
    for (int index = 0; index < argc; index++)
        if (!strncmp(argv[index], "out=", 4))
            out = fopen(argv[index] + 4, "w");
    if (!out)
        return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
