"""What emulated callers say and what an emulated model answers, unless a profile says otherwise."""

from __future__ import annotations

TRANSCRIPTS = (
    "What is the weather going to be like tomorrow morning?",
    "Could you tell me when the next train to the coast leaves?",
    "Please move my appointment to Thursday at half past nine.",
    "I would like to know how far it is to the old harbour.",
    "Can you remind me to call my sister when I get home?",
    "How long does it take to cook rice for four people?",
    "Turn down the lights in the kitchen and close the blinds.",
    "Tell me something interesting about the history of this town.",
)

REPLIES = (
    "Tomorrow starts dry and cool. Clouds come in around noon, and it may rain before the evening.",
    "The next one leaves at ten past four. It stops twice on the way and takes fifty minutes.",
    "That is done. Your appointment is now on Thursday at half past nine, at the same place.",
    "It is about three kilometres from here. Along the river the walk takes half an hour.",
    "I will remind you tonight. Would you like me to note down what you want to tell her?",
    "Allow about a quarter of an hour. Use twice as much water as rice, and keep the lid on.",
    "The kitchen lights are at a third now. The blinds are closing and will be down in a moment.",
    "The tower by the square is the oldest building. It was a mill before the town had a wall.",
)
"""Each is four to eight seconds of speech."""
