"""The report for people: pages made from the folder of an EvaluationReport. It needs no torch."""
