"""A discrete-event simulation of a cluster that runs the production scheduling code.

The router's ledger, placement and admission, the workers' step loops, their handoff machines and
schedulers are those that serve. The simulation supplies what they stand on: a machine model says
how long steps and block writes take (`machine.py`), a runner and an endpoint let that much virtual
time pass (`runner.py`, `endpoint.py`), a network carries messages (`network.py`). `simulation.py`
is the way in::

    pools = [WorkerPool(Role.PREFILL, 4), WorkerPool(Role.DECODE, 4, machine=MachineModel())]
    cluster = SimulatedCluster(pools, RouterSettings(admission=True))
    cluster.kill(WorkerRef("decode-5", 1), at_s=12.0)
    results = cluster.run(traces.synthetic(400), slo_of)

Equal arguments give equal results.
"""
