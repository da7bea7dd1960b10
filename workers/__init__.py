"""The engine: everything that runs inside a worker (what ERTS is to OTP).

Imported only as ``parallel_actors.workers``; it never imports from the library above it.
"""
