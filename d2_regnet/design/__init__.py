"""The paper's design space as a tool: describe a RegNet, sample, time and compare.

Section and figure numbers are those of "Designing Network Design Spaces" (Radosavovic et al., CVPR
2020, https://arxiv.org/abs/2003.13678). `d2-regnet design` is the command line.
"""
