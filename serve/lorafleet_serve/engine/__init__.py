"""Requests of any kind denoised together, step by step, in one batch. Knows neither Ray nor HTTP."""
