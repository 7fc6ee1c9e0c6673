"""Ray machinery that samplers, graders and the learner share."""
