"""What happens while a model with FBS layers trains: schedules, callbacks, gates fitted to data."""
