"""Studies with people: a blinded page that asks which of two pictures is better, and what the votes say.

EvaluationReport -> make -> Study -> raters -> votes -> count -> StudyResult
"""
