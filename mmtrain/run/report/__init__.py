"""From the records of runs to what a paper shows of them: tables, curves, a page; and to what TensorBoard shows."""
