"""Worked examples for ``icrl``: the tool that each uses, and its text. Written for this project."""

EXAMPLES: tuple[tuple[str, str], ...] = (
    (
        "calculator",
        """\
Question: A hall has 17 rows of 24 seats and 9 loose chairs. How many people can sit?
<think>Rows times seats, and the chairs: a calculation.</think>
<calculator>17 * 24 + 9</calculator>
<information>417</information>
<think>That is the number asked for.</think>
<answer>417</answer>""",
    ),
    (
        "python",
        """\
Question: What is the sum of all primes below 30?
<think>A short program finds the primes and adds them.</think>
<python>print(sum(n for n in range(2, 30) if all(n % d for d in range(2, n))))</python>
<information>129</information>
<think>The program printed the sum.</think>
<answer>129</answer>""",
    ),
    (
        "search",
        """\
Question: In which city was the author of the novel The Trial born?
<think>First I need the author.</think>
<search>The Trial novel author</search>
<information>The Trial: The Trial is a novel written by Franz Kafka.</information>
<think>Now where Franz Kafka was born.</think>
<search>Franz Kafka born</search>
<information>Franz Kafka: Franz Kafka was a writer who was born in Prague.</information>
<answer>Prague</answer>""",
    ),
    (
        "calculator",
        """\
Question: Calculate 1203 - 88 + 7 * 15.
<think>I let the calculator do it.</think>
<calculator>1203 - 88 + 7 * 15</calculator>
<information>1220</information>
<answer>1220</answer>""",
    ),
    (
        "python",
        """\
Question: What is the greatest common divisor of 462 and 1071?
<think>Python has a function for this.</think>
<python>import math
print(math.gcd(462, 1071))</python>
<information>21</information>
<answer>21</answer>""",
    ),
    (
        "calculator",
        """\
Question: A shirt costs 40 dollars and is reduced by 15 %. What does it cost now?
<think>85 % of 40 is left.</think>
<calculator>40 * 0.85</calculator>
<information>34</information>
<answer>34</answer>""",
    ),
)
