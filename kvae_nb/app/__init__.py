"""The command line, the panels to explore a model, and models of your own series."""

from kvae_nb.house import door

__getattr__, __dir__ = door(__name__, "cli", "command", "parsers", "given", "using", "sequences", "verbs", "series", "series_models", "series_data", "series_fit", "series_em", "series_forecast", "explore", "canvas", "play", "swap", "whole_film", "swap_panel", "game_panel", "filter_panel", "ball_panel", "fork_panel", "chorale_panel")
