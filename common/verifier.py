"""Answers: is a response right, and if not, why.

    verdicts = Verifier()(problems, responses)       # one Verdict per response

Model text is never evaluated. Each checker is a few regular expressions and exact arithmetic on bounded numbers, linear
in the length of the text, so nothing a model writes can hang, crash or execute code here. Mathematical answers that
are neither numbers nor words need algebra, which can take for ever or crash: math-verify does it in worker processes,
which are killed when their time is up. So do the scorers of reasoning-gym.
"""

import logging
import os
import random
import re
import signal
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType

from pebble import ProcessExpired, ProcessPool

from common import gym, ranks
from common.maths import MAX_LENGTH, compare, compare_forms, final_answer, find_answer, number, same_reading, symbolic
from common.problems import Problem
from common.spelling import normalise, plain, split_unit, undecorated

MAX_WORDS = 10_000  # characters of an answer in words or in steps
UNDECIDED = "undecided"  # until a worker process has been asked; never leaves this file
HONEST_SECONDS = 0.05  # of a worker, for a comparison that does not hang: several times what most take
MEMORY_LIMIT = 4 * 2**30  # bytes of address space for one worker
Question = tuple[Callable[..., bool], tuple[str, ...]]  # for a worker: a function and what it is asked about


@dataclass(frozen=True)
class Verdict:
    """Reward 0.0 or 1.0, its reason (match, mismatch, no_answer, timeout, error), and the answer that was extracted."""

    reward: float
    reason: str
    answer: str | None


# --- Checkers: (response, gold) -> (right, answer) -----------------------------------------------------------------
# Digits are ASCII: Python's \d and int() also take Arabic-Indic and other digits.

COUNTDOWN_NUMBER = r"(0|-?[1-9][0-9]{0,59})"
STEP = re.compile("([-+*/])".join([COUNTDOWN_NUMBER] * 2) + "=" + COUNTDOWN_NUMBER)


def read_steps(text: str) -> list[tuple[int, str, int, int]] | None:
    """The steps "3*7=21,21+5=26" as [(3, "*", 7, 21), (21, "+", 5, 26)]; None unless all are written so and true.

    Results may be zero or negative; numbers have no leading zeros.
    """
    steps = []
    for part in text.split(","):
        found = STEP.fullmatch(part.strip())
        if found is None:
            return None
        x, op, y, result = int(found[1]), found[2], int(found[3]), int(found[4])
        if op == "/":
            if y == 0 or x != y * result:
                return None
        elif result != {"+": x + y, "-": x - y, "*": x * y}[op]:
            return None
        steps.append((x, op, y, result))
    return steps


def countdown_result(text: str) -> tuple[Counter, int] | None:
    """The numbers that the steps consume and the number they end in; None unless every step is right.

    Each operand is a given number or a result not used before. Taking a result wherever its value fits loses nothing:
    all but the last result are used up in the end, so the given numbers are the same for every choice.
    """
    given, open_results, result = Counter(), Counter(), None
    for x, _, y, result in read_steps(text) or ():
        for operand in (x, y):
            if open_results[operand]:
                open_results[operand] -= 1
            else:
                given[operand] += 1
        open_results[result] += 1
    return (given, result) if open_results.total() == 1 else None


def countdown_steps(gold: str, steps: list[str]) -> list[bool]:
    """Of each step whether it is true and has its operands at hand: given numbers, or results of right steps before it.

    What is used is used up; a wrong step leaves what is at hand as it was. `gold` are steps of the same problem.
    """
    hand, verdicts = countdown_result(gold)[0], []
    for step in steps:
        found = countdown_result(step)  # (operands, result) of a true equation
        verdicts.append(found is not None and found[0] <= hand)
        hand = hand - found[0] + Counter([found[1]]) if verdicts[-1] else hand
    return verdicts


def countdown_text(text: str) -> str | None:
    """The steps that a response states, as they stand there; None where it states nothing, or too much to read."""
    steps, marked = find_answer(text)
    if steps is None or len(steps) >= MAX_WORDS:
        return None
    return undecorated(steps) if marked else steps


def check_countdown(text: str, gold: str) -> tuple[bool, str | None]:
    """Same numbers, each used once, and the same final result as the gold steps. The answer is that result."""
    steps = countdown_text(text)
    found = None if steps is None else countdown_result(steps)
    return found is not None and found == countdown_result(gold), None if found is None else str(found[1])


VERB = re.compile(r"\b(?:is|are|equals)\b:?[ \t]+")


def conclusion(text: str) -> str:
    """What the last line comes to, "28 + 13 = 41." or "The sum is 41.": behind its last "=", or its last "is"."""
    line = text.rstrip().rpartition("\n")[2]
    *_, value = line.rpartition("=") if "=" in line else VERB.split(line)
    return (line.isprintable() and value.strip()) or text


def check_exact(text: str, gold: str) -> tuple[bool, str | None]:
    """The same words, white space, commas between them and decoration aside.

    A text without a mark is an answer as a whole, or else by what its last line comes to.
    """
    answer, marked = find_answer(text)
    if answer is None or answer.split() == gold.split():
        return answer is not None, answer
    answer = answer if marked else conclusion(answer)
    if len(answer) > MAX_WORDS:
        return False, answer
    words = re.split(r"[\s,;]+", plain(answer))
    return words == gold.split() or (len(answer) <= MAX_LENGTH and normalise(answer) == gold), answer


def check_math(text: str, gold: str) -> tuple[bool | None, str | None]:
    r"""Equal as numbers or as words; None where that does not tell, and math-verify has to.

    A text without a mark such as \boxed{} is an answer only if it is one short line, and then a number or word: a
    number that happens to occur in prose is none.
    """
    answer, marked = find_answer(text)
    wanted = final_answer(gold)
    if answer is not None and not marked and (len(answer) > MAX_LENGTH or "\n" in answer):
        answer = None
    if answer is None or wanted is None:
        return False, answer
    right = compare(answer, wanted)
    return (right if marked or right is not None else False), answer


def check_gym(text: str, gold: str) -> tuple[bool | None, str | None]:
    """The gold answer itself is right; any other is for the set's own scorer to judge."""
    answer = final_answer(text)
    if answer is None or len(answer) > gym.MAX_ANSWER:
        return False, None
    return answer == gold.strip() or None, answer


CHECKERS = {"countdown": check_countdown, "exact": check_exact, "math": check_math, "rg": check_gym}


# --- Worker processes ---------------------------------------------------------------------------------------------


def start_worker(with_gym: bool) -> None:
    """Import what the questions need, before the clock of the first one starts."""
    logging.disable(logging.CRITICAL)  # math-verify says of each text that it cannot read so
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    symbolic("x+1", "1+x")
    if with_gym:
        import reasoning_gym  # noqa: F401


def ask(function: Callable[..., bool], about: tuple[str, ...], limit: float) -> bool:
    """Answer one question in a worker.

    The pool kills a worker that takes longer than `limit` seconds. One second later the kernel does so too, without
    Python's help: a worker whose parent was killed ends itself.
    """
    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, limit + 1)
    try:
        return function(*about)
    finally:  # a worker that dies later, while it waits for the next question, could leave its pool locked
        if sys.platform != "win32":
            signal.setitimer(signal.ITIMER_REAL, 0)


class WorkerProcess(SpawnProcess):
    """A spawned process that does not import the main script, and torch and the model code with it.

    multiprocessing tells a new process which file `__main__` came from, and the process runs that file; for the few
    milliseconds of the start there is a `__main__` that came from none.
    """

    starting = threading.Lock()

    @staticmethod
    def _Popen(process):
        with WorkerProcess.starting:
            main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
            try:
                return SpawnProcess._Popen(process)
            finally:
                sys.modules["__main__"] = main


class WorkerContext(SpawnContext):
    Process = WorkerProcess


def question(problem: Problem, answer: str) -> Question:
    """What a worker is asked about an answer that its checker could not decide."""
    if problem.kind == "rg":
        return gym.score, (answer, problem.answer, problem.id)
    return symbolic, (answer, final_answer(problem.answer))


DIGITS = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")  # what has one reading


def gold_question(gold: str) -> Question | bool:
    """Whether a mathematical gold answer can be verified, or what a worker is asked to find out."""
    text = normalise(gold)
    right = compare_forms(text, text)
    if right is None:
        return symbolic, (gold, gold)
    number_beyond_doubt = DIGITS.fullmatch(text) or number(split_unit(text)[0]) is None
    return right if number_beyond_doubt else (same_reading, (gold,))


def stop_pool(pool: ProcessPool) -> None:
    pool.stop()
    pool.join()


class Verifier:
    """Checks responses. `timeout` is the most seconds that one comparison may take; then its worker is killed.

    `ceiling` is the most seconds that the comparisons of one call may take beyond what so many take when none hangs;
    those that are open then count as timed out, and a line says so.

    Worker processes (`workers`; default: one per core that this rank has, at most 8) start at the first pair that exact
    arithmetic cannot decide, and stop on `close`, at the end of a `with` block, or with this process, however it ends.
    Calls may come from any thread.

    With `reward_mode="random"` the reward is a coin toss: a control, with nothing to learn. The coin is a function of
    (seed, problem, position, response), so that a resumed run repeats it. The reason still says what is right.
    """

    def __init__(
        self,
        reward_mode: str = "verifier",
        seed: int = 0,
        timeout: float = 5.0,
        workers: int | None = None,
        ceiling: float = 30.0,
    ):
        self.reward_mode = reward_mode
        self.seed = seed
        self.timeout = timeout
        self.ceiling = ceiling
        self.workers = workers or max(1, min((os.cpu_count() or 1) // ranks.on_this_machine(), 8))
        self._pool: ProcessPool | None = None
        self._with_gym = False  # whether its workers have reasoning-gym at hand
        self._stop = None
        self._lock = threading.Lock()

    def __enter__(self) -> "Verifier":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Stop the worker processes; the next call that needs some starts new ones."""
        with self._lock:
            if self._stop:
                self._stop()
            self._pool = self._stop = None

    def __call__(self, problems: Sequence[Problem], responses: Sequence[str], first: int = 0) -> list[Verdict]:
        """One verdict per (problem, response) pair; never raises on what a response contains.

        `first` is the position of the first pair among those of all ranks, which a coin toss depends on.
        """
        pairs = list(zip(problems, responses, strict=True))
        verdicts = [self._check(*pair) for pair in pairs]
        # Responses of one group often agree: each distinct question is settled once.
        questions = {
            i: question(problem, verdict.answer)
            for i, (verdict, (problem, _)) in enumerate(zip(verdicts, pairs, strict=True))
            if verdict.reason == UNDECIDED
        }
        reasons = self._settle(questions.values(), ceiling=True)
        for i, asked in questions.items():
            verdicts[i] = Verdict(float(reasons[asked] == "match"), reasons[asked], verdicts[i].answer)
        if self.reward_mode == "verifier":
            return verdicts
        tosses = (
            random.Random(f"{self.seed} {problem.id!r} {index} {response!r}").random() < 0.5
            for index, (problem, response) in enumerate(pairs, first)
        )
        return [Verdict(float(toss), v.reason, v.answer) for toss, v in zip(tosses, verdicts, strict=True)]

    def verifiable(self, problems: Sequence[Problem]) -> list[bool]:
        """Which gold answers can be verified: a perfect answer, even if written differently, would be right.

        A mathematical gold must be a number that math-verify reads as the same number or not at all, words, or
        something that math-verify reads and finds equal to itself; that it equals itself as text says nothing. Others
        must pass their own checker.
        """
        golds = [final_answer(p.answer) if p.kind == "math" else None for p in problems]
        questions = {gold: gold_question(gold) for gold in dict.fromkeys(golds) if gold and len(gold) <= MAX_LENGTH}
        reasons = self._settle(asked for asked in questions.values() if isinstance(asked, tuple))
        two_ways = [
            gold
            for gold, asked in questions.items()
            if isinstance(asked, tuple) and asked[0] is same_reading and reasons[asked] == "mismatch"
        ]
        if two_ways:
            examples = ", ".join(map(repr, two_ways[:3]))
            ranks.say(f"{len(two_ways):,} gold answers are numbers to us and others to math-verify: {examples}")
        read = {
            gold: asked
            if isinstance(asked, bool)
            else reasons[asked] == "match" or (asked[0] is same_reading and gold not in two_ways)
            for gold, asked in questions.items()
        }
        return [
            read.get(gold, False) if p.kind == "math" else self._check(p, p.answer).reward == 1
            for p, gold in zip(problems, golds, strict=True)
        ]

    def _check(self, problem: Problem, response: str) -> Verdict:
        checker = CHECKERS[problem.kind]
        try:
            right, answer = checker(response, problem.answer)
            if right is None and problem.kind == "rg" and not gym.needs_scorer(problem):
                right = gym.alike(answer, problem.answer)
        except Exception:  # a checker that fails on some text must not stop a run; the reason is counted
            return Verdict(0.0, "error", None)
        if right is None:
            return Verdict(0.0, UNDECIDED, answer)
        if right:
            return Verdict(1.0, "match", answer)
        return Verdict(0.0, "no_answer" if answer is None else "mismatch", answer)

    def _settle(self, questions: Iterable[Question], ceiling: bool = False) -> dict[Question, str]:
        """The reason of each question, from the worker processes; with a `ceiling`, those left at its end time out."""
        reasons = dict.fromkeys(questions, "error")
        waiting = list(reasons)
        seconds = self.ceiling + HONEST_SECONDS * len(waiting) / self.workers
        deadline = None  # its clock starts with the first that is done: by then the workers have started
        for _ in range(2):  # a worker may die for no fault of its question: of a signal to the process group, say
            expired = []
            futures = self._schedule(waiting)
            try:
                for asked, future in futures.items():
                    if ceiling and deadline is None:
                        wait(futures.values(), return_when=FIRST_COMPLETED)
                        deadline = time.monotonic() + seconds
                    try:
                        future.exception(None if deadline is None else max(0.0, deadline - time.monotonic()))
                    except TimeoutError:  # of the ceiling: a comparison's own is in the future
                        break
                    try:
                        reasons[asked] = "match" if future.result() else "mismatch"
                    except TimeoutError:
                        reasons[asked] = "timeout"
                    except (ProcessExpired, BrokenProcessPool):
                        expired.append(asked)
                    except Exception:  # raised inside math-verify, sympy or a scorer, of many kinds: stays an error
                        continue
                late = [asked for asked, future in futures.items() if not future.done()]
            finally:
                for future in futures.values():  # an interrupted call leaves no work behind
                    future.cancel()
            if late:
                reasons |= dict.fromkeys(late, "timeout")
                ranks.say(
                    f"warning: the verifier stopped after {seconds:.0f} seconds with {len(late):,} of "
                    f"{len(reasons):,} comparisons open; they count as timed out. The slowest answers take "
                    f"{self.timeout:g} seconds each"
                )
            waiting = expired
        return reasons

    def _schedule(self, questions: list[Question]) -> dict[Question, Future]:
        if not questions:
            return {}
        with_gym = any(function is gym.score for function, _ in questions)
        with self._lock:
            if self._pool is None or not self._pool.active or with_gym > self._with_gym:
                if self._stop:
                    self._stop()  # of a pool whose workers were all killed while idle, or know no reasoning-gym
                if find_spec("math_verify") is None:
                    raise ModuleNotFoundError("math-verify is not installed: pip install -r requirements.txt")
                self._with_gym |= with_gym
                self._pool = ProcessPool(
                    self.workers, initializer=start_worker, initargs=[self._with_gym], context=WorkerContext()
                )
                self._stop = weakref.finalize(self, stop_pool, self._pool)
            return {
                asked: self._pool.schedule(ask, (*asked, self.timeout), timeout=self.timeout) for asked in questions
            }
