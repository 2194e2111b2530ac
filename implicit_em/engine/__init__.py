"""The training step: replicas that train as a stack, where runs meet, and the LightningModules."""
