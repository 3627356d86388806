"""Looking inside a trained model: what its heads, layers and neurons do, each with numbers, pictures and a page.

Each file has one question and answers it with a `Chapter`. `report` writes what was asked for.
"""
