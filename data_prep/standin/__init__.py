"""The stand-in competition: invented videos with the statistics, the layout and the look of the real ones.

``physics`` moves the solids, ``renderer`` films them, ``writer`` lays videos down, ``stats`` compares with real data.
"""
