"""Prompt templates: a question in the words that the papers' models were asked with."""

from dataclasses import replace

from common import InputError
from common.problems import Problem

# Word for word: another wording is another experiment.

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{question}\n\nRemember to put your answer "
    'on its own line after "Answer:".'
)
R1 = (
    "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The Assistant "
    "first thinks about the reasoning process in the mind and then provides the User with the answer. The reasoning "
    "process is enclosed within <think> </think> and answer is enclosed within <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>.\nUser: {question}\n"
    "Assistant: <think>"
)


def render(template: str, question: str) -> str | list[dict]:
    """A question in one of the prompt templates: text that is continued as it is, or chat messages."""
    user = {"role": "user", "content": question}
    if template == "raw":
        return question
    if template == "chat":
        return [user]
    if template == "qwen_boxed":
        return [{"role": "system", "content": BOXED}, user]
    if template == "dapo":
        return [user | {"content": DAPO.replace("{question}", question)}]
    if template == "r1":
        return R1.replace("{question}", question)
    raise InputError(f"unknown prompt template {template!r}; use raw, chat, qwen_boxed, dapo or r1")


def with_template(problems: list[Problem], template: str) -> list[Problem]:
    """The problems with their questions in a template. Chat messages are in "chat" already: InputError for others."""
    if template == "raw":
        return problems
    are_texts = [isinstance(problem.prompt, str) for problem in problems]
    if template != "chat" and not all(are_texts):
        raise InputError(f"the prompts are chat messages already; leave --prompt-template {template} out")
    return [
        replace(problem, prompt=render(template, problem.prompt)) if is_text else problem
        for problem, is_text in zip(problems, are_texts, strict=True)
    ]
