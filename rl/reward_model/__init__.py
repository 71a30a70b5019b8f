"""Bradley-Terry reward models trained on replies that checkers passed and failed."""
