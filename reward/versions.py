"""Declared versions of the checkers: what decides that a verdict, or a stage's result, still stands.

Raise a checker's number when it would judge some reply otherwise (CONTRIBUTING.md).
"""

CHECK_VERSIONS = {
    "math": 2,
    "choice": 2,
    "tools": 1,
    "instructions": 1,
    "code": 2,
    "contest": 2,
    "contains": 1,
    "refusal": 1,
    "judged-match": 1,
    "judged-better": 1,
    "composite": 1,
}
