"""What llvm-mca predicts for the multiply loops of kernels/neon.c and kernels/int8_neondot.c:

    python tests/native/neon_mca.py [--cpu CPU ...] [--function multiply_8x2 ...]

Compiles the kernels for AArch64 with each cross compiler that is installed, takes the loop with the most multiply-adds,
FMLAs (four of floats) or SDOTs (sixteen of bytes), out of each function, and prints how many of them begin in a cycle,
and their share of the peak.

The peak is what the same model reaches with such instructions that wait for nothing, but at most what Arm's software
optimisation guides give: 1 a cycle for Cortex-A55 (LLVM 14 has it begin two) and 2 for Neoverse N1 (which LLVM 14 takes
for a Cortex-A57, of 1 FMLA a cycle). tsv110 is here as a model of a core with 2 a cycle, four instructions wide as N1
is. No model knows of caches, and LLVM 14's Cortex-A55 not that a load of 128 bits takes it two cycles.
"""

import argparse
import re
import shutil
import subprocess
from pathlib import Path

CORE = Path(__file__).parents[2] / "tflite" / "core" / "kernels"
COMPILERS = {"gcc": ["aarch64-linux-gnu-gcc"], "clang": ["clang", "--target=aarch64-linux-gnu"]}
PEAKS = {"cortex-a55": 1, "neoverse-n1": 2, "tsv110": 2}
FUNCTIONS = ["multiply_8x2", "multiply_7x2", "multiply_6x3", "multiply_5x3"]
# Of each file, the instruction that multiplies and adds, and one that waits for none of its kind.
KERNELS = {
    "neon.c": ("fmla", "fmla v{}.4s, v30.4s, v31.s[0]"),
    "int8_neondot.c": ("sdot", "sdot v{}.4s, v30.16b, v31.4b[0]"),
}


def compile_kernels(command, source):
    arguments = [*command, "-std=gnu11", "-O3", "-S", str(CORE / source), "-o", "-"]
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


def hot_loop(assembly, function, instruction):
    """The innermost loop with the most of an instruction."""
    body = re.search(rf"^{function}:.*?^\s*\.size\s+{function}\b", assembly, re.M | re.S).group()
    lines = [line.split("//")[0].strip() for line in body.splitlines()]
    labels = {line[:-1]: number for number, line in enumerate(lines) if line.endswith(":")}
    loops = []
    for number, line in enumerate(lines):
        branch = re.match(r"(b\.?\w*|cbn?z|tbn?z)\s.*?(\.L\w+)$", line)
        if branch is None or labels.get(branch.group(2), number) >= number:
            continue
        loop = lines[labels[branch.group(2)] + 1 : number + 1]
        if not any(line.endswith(":") for line in loop):
            loops.append([line for line in loop if line and not line.startswith((".", "#"))])
    return max(loops, key=lambda loop: count(loop, instruction))


def count(loop, instruction):
    return sum(line.startswith(instruction) for line in loop)


def per_cycle(loop, instruction, cpu):
    rounds = 1000
    command = ["llvm-mca", "-mtriple=aarch64", f"-mcpu={cpu}", f"-iterations={rounds}"]
    result = subprocess.run(command, input="\n".join(loop), check=True, capture_output=True, text=True)
    cycles = int(re.search(r"Total Cycles:\s+(\d+)", result.stdout).group(1))
    return rounds * count(loop, instruction) / cycles


def peak_of(cpu, instruction, form):
    independent = [form.format(i) for i in range(24)]
    return min(PEAKS.get(cpu, 4), round(per_cycle(independent, instruction, cpu), 1))


def missing_tool():
    """The name of a tool that is needed and not installed, or None."""
    needed = ["llvm-mca", "aarch64-linux-gnu-gcc"]  # the second for its headers, which clang uses too
    return next((tool for tool in needed if shutil.which(tool) is None), None)


def measure(cpus=PEAKS, functions=FUNCTIONS):
    """Rows (compiler, cpu, instruction, function, multiply-adds, other instructions, multiply-adds a cycle, peak)."""
    for compiler, command in COMPILERS.items():
        if shutil.which(command[0]) is None:
            continue
        for source, (instruction, form) in KERNELS.items():
            assembly = compile_kernels(command, source)
            for cpu in cpus:
                peak = peak_of(cpu, instruction, form)
                for function in functions:
                    loop = hot_loop(assembly, function, instruction)
                    used = count(loop, instruction)
                    rate = per_cycle(loop, instruction, cpu)
                    yield compiler, cpu, instruction, function, used, len(loop) - used, rate, peak


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", nargs="+", default=list(PEAKS))
    parser.add_argument(
        "--function", nargs="+", default=FUNCTIONS, help="multiply_{output pixels}x{vectors of channels}"
    )
    arguments = parser.parse_args()
    tool = missing_tool()
    if tool is not None:
        parser.error(f"{tool} must be installed")
    print(f"{'compiler':9} {'cpu':12} {'loop':18} {'count':>5} {'other':>6} {'a cycle':>8} {'peak':>5} {'share':>6}")
    for compiler, cpu, instruction, function, used, other, rate, peak in measure(arguments.cpu, arguments.function):
        name, share = f"{instruction} {function}", min(rate / peak, 1)
        print(f"{compiler:9} {cpu:12} {name:18} {used:5} {other:6} {rate:8.2f} {peak:5.1f} {share:6.0%}")


if __name__ == "__main__":
    main()
