"""Benchmark suites: whole networks, and every convolution of the usual ones by itself; see scripts/benchmark.py.

Both time FBS against XNNPACK's dense convolutions and report, besides milliseconds,

    R     = (dense XNNPACK time / our time) / (dense MACs / FBS MACs)
    R own = (our time at density 1 / our time) / (dense MACs / FBS MACs)

R = 1 means that saved MACs became saved time, one to one; above that, our kernels compute a dense layer faster than
XNNPACK does, too. R own tells what skipping channels does alone. The MACs are counted without the gates' own, as the
paper does in its tables by density: they are overhead, which the time includes.
"""
