"""Bytes that nobody thought of, fed to a protocol: ``python -m tests.fuzz``.

``target`` says what an input means and what must hold; ``corpus`` holds inputs worth keeping, one a
line. The tests give the target these, and what a few cuts and changes make of them; atheris
(``pip install -e ".[fuzz]"``) makes new ones for as long as wanted.
"""
