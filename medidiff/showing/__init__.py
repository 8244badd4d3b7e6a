"""How values show themselves: three planes in a notebook, a figure, an interactive viewer, and progress.

`rich` holds what every such value has and loads the rest when it is first asked for, by name: pictures need libraries
that the code of an exported prior does not carry.
"""
