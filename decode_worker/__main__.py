"""`python -m decode_worker --model DIR --router HOST:PORT`"""

import gc

if __name__ == "__main__":
    gc.disable()  # while modules are loaded, the collector would scan them repeatedly for nothing
    from cluster.roles import POLICIES
    from wire.identity import Role
    from worker.process import make_app

    make_app(Role.DECODE, POLICIES)()
