"""Models and adapters: SFT, export, replay and the built-in tiny model."""
