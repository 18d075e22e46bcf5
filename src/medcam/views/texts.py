"""Short texts in pictures: one line, few digits."""

from __future__ import annotations


def one_line(text: object, longest: int) -> str:
    r"""Return a text as one line of at most ``longest`` characters, shortened in the middle.

    Example:
        >>> one_line("encoder.stages.3.convs.1", 12), one_line("a\nb", 9)
        ('encod…nvs.1', 'a�b')
    """
    line = "".join(letter if letter.isprintable() else "�" for letter in str(text))
    if len(line) <= longest:
        return line
    half = max(longest - 1, 2) // 2
    return f"{line[:half]}…{line[-half:]}"


def short_number(value: float) -> str:
    """Return a number with at most three significant digits.

    Example:
        >>> [short_number(value) for value in (0.25, 0.000015, -200000.0, 0)]
        ['0.25', '1.5e−5', '−2e5', '0']
    """
    text = f"{value:.3g}"
    if value and not 1e-3 <= abs(value) < 1e4:
        digits, power = f"{value:.2e}".split("e")
        text = f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    return text.replace("-", "\N{MINUS SIGN}")
