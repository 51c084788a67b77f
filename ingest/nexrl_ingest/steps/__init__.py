"""Steps: what agent-side spans mean to people, whichever instrumentation wrote them, and whose session they are in.

They hold no token ids, so they are shown and never trained. Start reading at `understanding.py`.
"""
