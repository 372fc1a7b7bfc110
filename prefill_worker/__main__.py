"""`python -m prefill_worker --model DIR --router HOST:PORT`"""

import gc

if __name__ == "__main__":
    gc.disable()  # while modules are loaded, the collector would scan them repeatedly for nothing
    from prefill_worker.scheduler import make_policy
    from wire.identity import Role
    from worker.process import make_app

    make_app(Role.PREFILL, make_policy)()
