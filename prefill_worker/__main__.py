"""`python -m prefill_worker --model DIR --router HOST:PORT`"""

from prefill_worker.scheduler import make_policy
from wire.identity import Role
from worker.process import make_app

if __name__ == "__main__":
    make_app(Role.PREFILL, make_policy)()
