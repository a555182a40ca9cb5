"""parley.v1.Tts: sessions that speak as their text comes, and the models behind them."""
