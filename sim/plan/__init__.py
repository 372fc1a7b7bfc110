"""Chooses pools of workers for a model, its traffic and its targets.

The capacity formula of the role controller ranks all pools (`formula.py`), the simulation tries
those that may be cheapest (`planner.py`), and what is found is told in words (`findings.py`)::

    needs = Needs(requests_per_s=20, ttft_s=1.0, tpot_s=0.03)
    kinds, trials = worker_kinds(stock, shape).able, Trials(arrivals, needs)
    found = plan(kinds, traffic_of(arrivals), needs, trials)
"""
