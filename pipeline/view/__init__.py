"""Look before you confirm: a local page that shows what a lens and a `max_coc` do to the scenes at hand.

Everything it shows comes from the functions that phases 4 and 5 call, at preview size; `max_coc` is confirmed through the very
function that phase 4 calls. A page of the standard library's server, on this machine's loopback only, that asks nobody for
anything.
"""
