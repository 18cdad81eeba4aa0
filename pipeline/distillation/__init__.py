"""Students: what they learn from a teacher, word by word or from its translations, and what that costs."""
