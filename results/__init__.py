"""The numbers that the paper reports (paper.yaml), and records of campaigns measured with this suite."""
