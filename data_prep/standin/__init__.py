"""The stand-in competition: invented videos with the statistics, the layout and the look of the real ones.

``physics`` throws the solids, ``engine`` moves them, ``renderer`` films them, ``writer`` lays videos down.
"""
