"""VBench, version 1, text to video (arXiv 2311.17982): sampling, rules and final scores."""
