"""`optics.fixed` as Triton kernels: the same picture in a hundredth of the launches, on a GPU.

Special: what is a list of edge pixels there is a mask here, so no list can be too short; and blurred layers of the full grid
never reach memory: a program gathers and stacks them for its tile. Large layers stay with the FFT library, a group at a time,
which the second-level cache of a large card holds. For inference in float32. The plain form is the reference and proves this
one before its first use on a device (`fixed.proved`).

Modules named `*_kernels` are in Triton's language, are imported only where Triton is, and are not checked for types.
"""
