"""The report for people: pages made from the folder of an EvaluationReport. It needs no torch."""

from drtune.report.pages import PAGE, SUMMARY, metrics, write_pages

__all__ = ["PAGE", "SUMMARY", "metrics", "write_pages"]
