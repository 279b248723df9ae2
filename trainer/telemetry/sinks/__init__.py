"""Where a run is seen beside its own folder: TensorBoard, MLflow, W&B, Prometheus, traces, lineage
events. A process of their own follows the run's files, so that none can slow or stop training.

    guardian --fork--> keeper --fork--> one thread a sink, each with its own place in the files
"""
