"""The dashboard: watch runs, train, and look after models in the browser."""
