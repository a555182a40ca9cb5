"""The user's side of a session: from detector verdicts to turns, and whether they interrupt.

The order of a turn, and of an interruption, is DESIGN §4; the methods stand in that order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.listen.asr import Hypothesis
from gateway.listen.ear import WINDOW_MS, Ear, Guard, Window
from gateway.listen.gate import NoiseGate
from gateway.session import events as ev
from gateway.session.answering import Answering
from gateway.session.barge_in import Judge, Verdict, has_real_word
from gateway.session.core import Core
from gateway.session.patience import Patience
from gateway.session.recognising import final_of, open_utterance, recognise
from gateway.session.reply import Marks, Reply, same_words
from gateway.session.suspicion import Suspicion
from gateway.session.traced import barge_in_decided, begin_turn, came_to_nothing
from gateway.session.turn import Speech, Turn
from gateway.think.endings import Ending, ending

_JUDGED_S = 2.0
"""A detector that is further behind than this is not waited for."""
_SURE = 0.8
"""Probability below which the detector begins to doubt that speech goes on: two windows before it lets go."""


class Hearing:
    """Decides what is a turn and what is an interruption; `Answering` does the rest."""

    def __init__(self, core: Core, guard: Guard | None) -> None:
        s = core.settings
        self.answering: Answering
        self.on_quiet: Callable[[], None] = lambda: None
        """Nobody speaks any more, and what was said is recognised or was nothing."""
        self._core, self._guard = core, guard
        self._suspicion: Suspicion | None = None
        self._scout: Callable[[bytes], None] | None = None
        self._turn: Turn | None = None  # takes more words until its reply is audible
        self._speech: Speech | None = None
        self._patience = Patience(learns=s.turn.patient)
        self._last_voiced_ms = -1.0e9
        self._finals_awaited = 0
        self._voiced_run = 0
        self._audio_s = 0.0
        self._now = core.now
        self._stall: asyncio.TimerHandle | None = None
        self._ear = Ear(
            core.parts.vad,
            s.vad,
            input_rate=core.hello.input_rate,
            guard=guard,
            gate=NoiseGate(s.gate) if s.gate.enabled else None,
            on_window=core.guarded(self._on_window),
        )
        self._watch_for_onset()

    @property
    def user_is_speaking(self) -> bool:
        """Or what they said is still being recognised."""
        return self._speech is not None or self._finals_awaited > 0

    @property
    def speech_is_open(self) -> bool:
        return self._speech is not None and self._speech.open

    def set_gate(self, state: ev.State) -> None:
        gate = self._core.settings.gate
        self._ear.gate_factor = {
            ev.State.SPEAKING: gate.factor_speaking,
            ev.State.BARGED_IN: gate.factor_barged_in,
            ev.State.WAITING_FOR_INPUT: gate.factor_waiting,
        }.get(state, gate.factor_listening)
        self._watch_reply(state)

    def _watch_reply(self, state: ev.State) -> None:
        """While a reply is audible that may be interrupted, any loud sound holds it back for a moment."""
        reply = self.answering.audible if self._core.settings.barge_in.fast else None
        if state is ev.State.SPEAKING and reply is not None and reply.interruptible:
            if self._suspicion is None:
                self._suspicion = Suspicion(self._core, self.answering.playout, self._guard)
            self._scout = self._suspicion.hear
        elif self._suspicion is not None and self._scout is not None:
            self._scout = None
            self._suspicion.stop(confirmed=state is ev.State.BARGED_IN)

    def close(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
        if self._suspicion is not None:
            self._suspicion.stop()
        self._ear.close()

    # ---- audio -----------------------------------------------------------------------------------

    def hear(self, pcm: bytes) -> None:
        self._audio_s = self._now()
        if self._scout is not None:
            self._scout(pcm)
        self._ear.feed(pcm)

    async def judged(self) -> None:
        """Returns once everything heard so far was judged."""
        await self._ear.answered(_JUDGED_S)

    def _watch_for_stall(self) -> None:
        """A microphone that falls silent by sending nothing must not hold a turn open for ever."""
        if self._stall is None:
            self._stall = self._core.later(self._core.settings.turn.stall_ms / 1000, self._check_stall)

    def _check_stall(self) -> None:
        self._stall = None
        if not self.speech_is_open:
            return
        quiet_s = self._core.now() - self._audio_s
        missing_s = self._core.settings.turn.stall_ms / 1000 - quiet_s
        if missing_s > 0.001:
            self._stall = self._core.later(missing_s, self._check_stall)
        else:
            self._ear.feed_silence(2 * WINDOW_MS)
            self._stall = self._core.later(2 * WINDOW_MS / 1000, self._check_stall)

    def _watch_for_onset(self) -> None:
        """Nobody speaks: verdicts that cannot begin speech are of no interest."""
        vad = self._core.settings.vad
        self._ear.least = min(vad.threshold, vad.speaking_threshold) if self._voiced_run == 0 else 0.0

    def _on_window(self, window: Window) -> None:
        vad, speech = self._core.settings.vad, self._speech
        speaking = self._core.state is ev.State.SPEAKING
        threshold = vad.speaking_threshold if speaking else vad.threshold
        if speech is None or not speech.open:
            self._voiced_run = self._voiced_run + 1 if window.probability >= threshold else 0
            if self._voiced_run >= vad.onset_windows:
                self._on_onset(window, self._voiced_run)
            else:
                self._watch_for_onset()
            return
        speech.doubt_ms = 0 if window.probability >= _SURE else speech.doubt_ms + WINDOW_MS
        if window.probability >= threshold - vad.release:
            self._on_voiced(speech, window, 1)
        else:
            self._on_silent(speech)
            self._end_if_too_long(speech, window)
        self._consider_guessing(speech)

    def _end_if_too_long(self, speech: Speech, window: Window) -> None:
        longest_ms = self._core.settings.turn.max_utterance_s * 1000
        if speech.open and window.end_ms - speech.onset_ms >= longest_ms:
            self._end_speech(speech)

    # ---- speech ----------------------------------------------------------------------------------

    def _on_onset(self, window: Window, windows: int) -> None:
        self._voiced_run = 0
        first = window.index + 1 - windows
        audible, interrupts = self.answering.audible, None
        if audible is None:
            self.answering.playout.hold()  # a prepared reply waits until we know what this is
            self._turn = self._turn or Turn()
            self._core.enter(ev.State.LISTENING)
        elif self._core.barge_in and audible.interruptible:
            interrupts = audible
            self._pause_for_interruption()
            self._core.parts.metrics.observe("barge_in_detect_to_flush", self._core.now() - window.arrived_s)
        self._core.parts.llm.warm_up()
        self._went_on(first * WINDOW_MS)
        turn = self._turn if audible is None and self._turn is not None else Turn()
        utterance = open_utterance(self._core, turn, self._on_partial)
        speech = Speech(turn, utterance, first * WINDOW_MS, self._now(), interrupts)
        if interrupts is not None:
            speech.judge = self._new_judge()
        self._speech = speech
        self._ear.least = 0.0
        pre_roll = self._core.settings.vad.pre_roll_ms // WINDOW_MS
        speech.utterance.feed(b"".join(self._ear.since(first - pre_roll)))
        self._ear.tap = speech.utterance.feed
        recognise(self._core, speech)
        self._watch_for_stall()
        self._core.send(ev.SpeechStarted(turn.turn_id, speech.onset_ms))
        self._on_voiced(speech, window, windows)

    def _went_on(self, onset_ms: float) -> None:
        self._patience.paused(onset_ms - self._last_voiced_ms, self._core.hangover_long_ms)

    def _on_voiced(self, speech: Speech, window: Window, windows: int) -> None:
        if speech.silent_ms:
            self._went_on(window.end_ms - WINDOW_MS)
        speech.silent_ms = 0
        speech.stopped = window
        self._last_voiced_ms = window.end_ms
        if speech.judge is not None:
            self._act_on(speech, speech.judge.voiced(windows * WINDOW_MS))
        self._end_if_too_long(speech, window)

    def _on_silent(self, speech: Speech) -> None:
        speech.silent_ms += WINDOW_MS
        if speech.judge is not None:
            self._act_on(speech, speech.judge.silent(WINDOW_MS))
        if not speech.open or not self._core.automatic_turns:
            return
        if speech.silent_ms >= self._wait_ms(speech):
            self._end_speech(speech)

    def _on_partial(self, turn: Turn, heard: Hypothesis) -> None:
        speech = self._speech
        if speech is not None and speech.turn is turn and speech.open:
            if heard.text != speech.partial:
                speech.partial, speech.partial_s = heard.text, self._core.now()
                self._consider_guessing(speech)
            if speech.judge is not None:
                self._act_on(speech, speech.judge.recognised(heard.text))
        self._core.send(ev.Transcript(turn.turn_id, heard.text, final=False, stable=heard.stable))

    def _wait_ms(self, speech: Speech) -> float:
        """Silence that ends this speech."""
        still_ms = (self._core.now() - speech.partial_s) * 1000
        is_still = still_ms >= self._core.settings.turn.stable_ms
        words = ending(speech.partial, self._core.asr_language) if is_still else Ending.OPEN
        core = self._core
        return self._patience.wait_ms(words, core.hangover_ms, core.hangover_long_ms, at_once=core.eager)

    def _consider_guessing(self, speech: Speech) -> None:
        """Answer what the final transcript may be; nothing of it is audible or kept unless that agrees."""
        core = self._core
        if not core.eager or not core.automatic_turns or speech.doubt_ms < core.settings.turn.eager_ms:
            return
        if not speech.open or speech.judge is not None or self.answering.audible:
            return
        words = ending(speech.partial, core.asr_language)
        if not speech.partial or speech.doubt_ms < self._guess_after_ms(words):
            return
        guess = Turn(speech.turn.turn_id, [*speech.turn.texts, speech.partial], trace=speech.turn.trace)
        reply = self.answering.prepared
        if reply is not None and (
            reply.turn_id != guess.turn_id or same_words(reply.question, guess.question)
        ):
            return
        self.answering.throw_away()
        self.answering.answer(guess, guessed=True)

    def _guess_after_ms(self, words: Ending) -> float:
        """The less the words look like the end, the longer."""
        soon_ms = self._core.settings.turn.eager_ms
        if words is Ending.OPEN:
            return max(soon_ms, self._core.hangover_ms)
        return soon_ms if words is Ending.WHOLE else 3 * soon_ms

    # ---- interruption ----------------------------------------------------------------------------

    def _new_judge(self) -> Judge:
        return Judge(self._core.settings.barge_in, self._core.hangover_ms)

    def _pause_for_interruption(self) -> None:
        """Step 1: silence within a frame, before anybody knows whether it is real."""
        if self._core.state is ev.State.SPEAKING:
            self.answering.pause()
            self._core.enter(ev.State.BARGED_IN)

    def _act_on(self, speech: Speech, verdict: Verdict) -> None:
        if verdict is Verdict.REAL:
            self._interrupt(speech)
        elif verdict is Verdict.SILENT and speech.open:
            self._end_speech(speech)  # the final words decide

    def _captured(self, speech: Speech) -> Reply | None:
        """The reply this speech may still decide over; the question is settled by asking."""
        reply, speech.judge, speech.interrupts = speech.interrupts, None, None
        return reply if reply is not None and reply is self.answering.reply else None

    def _interrupt(self, speech: Speech) -> None:
        """Step 2: it is real. What was captured at the onset is cancelled, and nothing else."""
        reply = self._captured(speech)
        if reply is None:
            return
        barge_in_decided(self._core, reply, speech, real=True)
        self._turn = speech.turn
        following = self._speech
        if following is not None and following is not speech and following.interrupts is reply:
            following.turn, following.judge, following.interrupts = speech.turn, None, None
        self.answering.cancel(ev.Outcome.INTERRUPTED)

    def _carry_on(self, speech: Speech) -> None:
        """Step 3: it was false. The reply goes on from the first frame not heard."""
        reply = self._captured(speech)
        if reply is not None and self._core.state is ev.State.BARGED_IN:
            barge_in_decided(self._core, reply, speech, real=False)
            self.answering.resume()

    # ---- end of turn -----------------------------------------------------------------------------

    def commit(self) -> bool:
        """The user's turn ends now; False when nothing was heard."""
        if self._speech is None or not self._speech.open:
            return False
        self._end_speech(self._speech)
        return True

    def _end_speech(self, speech: Speech) -> None:
        speech.ended_s = self._core.now()
        self._ear.tap = None
        self._voiced_run = 0
        self._watch_for_onset()
        speech.utterance.end()
        stopped_ms = speech.stopped.end_ms if speech.stopped is not None else speech.onset_ms
        self._core.send(ev.SpeechStopped(speech.turn.turn_id, stopped_ms))
        if self._core.state is ev.State.LISTENING:
            self._core.enter(ev.State.WAITING_FOR_INPUT)
        self._finals_awaited += 1
        turn = speech.turn
        self._core.spawn(self._await_final(speech), self._core.turn_context(turn.turn_id, turn.trace))

    async def _await_final(self, speech: Speech) -> None:
        if speech.judge is not None:
            wait_s = self._core.settings.barge_in.judge_wait_ms / 1000
            self._core.later(wait_s, lambda: self._judged_too_late(speech))
        try:
            final = await final_of(self._core, speech)
        finally:
            self._finals_awaited -= 1
            if self._speech is speech:
                self._speech = None
        turn, text = speech.turn, final.text.strip() if final is not None else ""
        if text:
            stopped_s = speech.stopped.arrived_s if speech.stopped is not None else None
            turn.marks = Marks(stopped_s, speech.ended_s, self._core.now())
        if final is not None:
            words = tuple(ev.Word(w.text, w.start_ms, w.end_ms) for w in final.words)
            self._core.send(ev.Transcript(turn.turn_id, text, final=True, stable=len(text), words=words))
        self._on_final(speech, text)

    def _judged_too_late(self, speech: Speech) -> None:
        """The words that would decide do not come: the reply must not stay silent for them."""
        if speech.judge is not None and self._speech in (None, speech):
            self._carry_on(speech)

    def _on_final(self, speech: Speech, text: str) -> None:
        turn, real = speech.turn, has_real_word(text, self._core.settings.barge_in)
        if speech.judge is not None:  # silent before it was confirmed
            real = speech.judge.by_final_words(text)
            if real:
                self._interrupt(speech)
            elif self._speech is None:
                self._carry_on(speech)
            else:
                self._hand_judgement_on(speech, self._speech)
            if not real:
                came_to_nothing(turn, "no_interruption")
                self._nobody_speaks()
                return
        if self.answering.audible is not None:
            if real:  # spoken over a reply that could not be interrupted
                turn.texts.append(text)
                self.answering.answer_later(turn)
            return
        if text:
            turn.texts.append(text)
        if not self.user_is_speaking:
            self._after_words(turn, said_more=bool(text))
        # Otherwise more of this turn is being said, and its final comes here.

    def _hand_judgement_on(self, speech: Speech, following: Speech) -> None:
        """Another stretch of speech began meanwhile: it decides over the same reply."""
        reply = self._captured(speech)
        if following.interrupts is None and reply is not None:
            following.interrupts, following.judge = reply, self._new_judge()

    def _after_words(self, turn: Turn, *, said_more: bool) -> None:
        """A turn's words are complete, unless the user goes on before the reply is audible."""
        reply = self.answering.prepared
        if reply is not None and said_more and reply.turn_id != turn.turn_id:
            self.answering.answer_later(turn)
        elif reply is not None and said_more and reply.answers(turn.question):
            reply.wanted(turn.question, turn.marks)
        elif (reply is None or said_more) and turn.question:
            self.answering.throw_away()
            self.answering.answer(turn)
        self._nobody_speaks()

    def _nobody_speaks(self) -> None:
        if not self.user_is_speaking:
            if self._turn is not None and not self._turn.texts:
                came_to_nothing(self._turn, "nothing_said")
                self._turn = None
            self.answering.go_on()
            self.on_quiet()

    def type(self, text: str) -> None:
        """A turn of typed words; the reply in the air is cut."""
        self.answering.cancel(ev.Outcome.INTERRUPTED)
        turn = self._turn = Turn(texts=[text], typed=True)
        turn.marks.final = self._core.now()
        begin_turn(self._core, turn, self._core.now())
        self.answering.answer(turn)

    def close_turn(self) -> None:
        """Its reply is audible or over: what is said from now on is a new turn."""
        if self._turn is not None:
            self._patience.turn_over()
        self._turn = None
