"""Limits by queueing: packets of limited sockets leave an IFB device through an HTB class of their rule.

    device ── ingress: queue_download ──redirect──> IFB "chadthrottle", HTB c7ad:
    device ── egress:  queue_upload ────mirred────>  └ class of the rule and direction, at its rate
                                                        ├ first: ACKs, DNS; before the others, the newest of them
                                                        └ the rest; a tbf, bounded in bytes, that takes GSO apart

shape.py     rates as numbers of HTB and tbf
records.py   the map `queues`: what was done to which device, written before it is done
classes.py   a rate's classes and leaves on a device
place.py     one network namespace: made, repaired, removed; it and classes.py import netlink
queues.py    all of them, for all rules; decides between queue and bucket

A queue has the classes of every queued rule, or is removed: a packet whose class is missing would pass at once.
"""

from chadthrottle.enforce.queue.queues import NO_QUEUES, Held, QueueReport, hold, remove_recorded, report, sweep

__all__ = ["NO_QUEUES", "Held", "QueueReport", "hold", "remove_recorded", "report", "sweep"]
