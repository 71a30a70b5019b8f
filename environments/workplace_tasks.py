"""Tasks made from the workplace's tables: a wording, values of one half, and the calls that do it.

Every value that a request names (person, subject, event, project task, customer, date, text) belongs to
the training or to the test half, by its place in the sorted list of its kind; a request draws all of its
values from one half. So no value of a held-out request was ever asked about in training. The tools' own
short lists (statuses, products, boards, lists, metrics, plots, lengths) are in both.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from random import Random

from environments.config import WorkplaceTasks
from environments.protocol import Task, ToolCall
from environments.workplace import KITS, TODAY, documents, fresh
from workbench.errors import UserError

Row = dict[str, str]

_SYSTEM = (
    f"It is Thursday, {TODAY}, 23:59. Meetings are between 9:00 and 18:00. Look up what you need, do "
    "what is asked and nothing else."
)
_BODIES = (
    "I will look into it tomorrow.", "Please send me the latest numbers.", "Let us talk on Monday.",
    "Thank you, that helps a lot.", "Can you finish it this week?", "I agree with the plan.",
    "The deadline has moved by a week.", "Please add me to the thread.",
    "We need one more review.", "Good work, keep going.",
)  # fmt: skip
_SUBJECTS = (
    "Budget for next year", "Office move", "New laptop", "Travel plans", "Release notes",
    "Hiring update", "Security training", "Team lunch", "Quarterly goals", "Parking spaces",
)  # fmt: skip
_NEW_TASKS = (
    "Write release checklist", "Clean up old branches", "Draw new icons", "Measure page load time",
    "Translate the help pages", "Rewrite the sign-up form", "Check broken links",
    "Update the style guide", "Add a dark theme", "Document the import job",
)  # fmt: skip
_NEW_EVENTS = (
    "Roadmap chat", "Design critique", "Contract talk", "Retrospective", "Onboarding hour",
    "Vendor call", "Incident review", "Lunch and learn",
)  # fmt: skip
_NEW_CUSTOMERS = (
    "Mara Lindqvist", "Theo Okafor", "Ines Duarte", "Pavel Novak", "Hana Suzuki", "Omar Haddad",
    "Greta Vogel", "Liam Byrne", "Noor Rahman", "Elif Kaya",
)  # fmt: skip
_DAYS = tuple(f"2023-12-{day:02d}" for day in range(1, 31))
_PAST_DAYS = tuple(f"2023-{month}-{day:02d}" for month in (10, 11) for day in range(1, 31))
_LISTS = ("Backlog", "In Progress", "In Review", "Completed")
_STATUSES = ("Lead", "Qualified", "Proposal", "Won", "Lost")
_PRODUCTS = ("Software", "Hardware", "Services", "Consulting", "Training")
_BOARDS = ("Back end", "Front end", "Design")
_METRICS = {"total_visits": "total visits", "session_duration_seconds": "session duration",
            "user_engaged": "engaged users", "visits_direct": "direct visits"}  # fmt: skip
_PLOTS = ("bar", "line", "scatter", "histogram")
_TRIES = 2_000


@dataclass(frozen=True)
class Office:
    """The tables, and the values of each kind that belong to one half."""

    half: str
    emails: list[Row]
    events: list[Row]
    projects: list[Row]
    customers: list[Row]
    values: dict[str, tuple[str, ...]]

    def draw(self, rng: Random, kind: str) -> str:
        """A value of this half."""
        return rng.choice(self.values[kind])

    def address(self, person: str) -> str:
        """The mail address of a person of either half."""
        return next(a for a in _addresses() if a.startswith(f"{person.lower()}."))


# A wording and its calls, or None where the drawn values give nothing to do.
Made = tuple[str, list[ToolCall]] | None


def _call(name: str, **arguments: str) -> ToolCall:
    return {"name": name, "arguments": arguments}


def _delete_last_email(rng: Random, office: Office) -> Made:
    person = office.draw(rng, "person")
    found = [m for m in office.emails if m["sender/recipient"] == office.address(person)]
    if not found:
        return None
    last = max(found, key=lambda m: m["sent_datetime"])
    return f"Remove the newest email that {person} sent me.", [
        _call("email_delete_email", email_id=last["email_id"])
    ]


def _reply_to_email(rng: Random, office: Office) -> Made:
    person, subject = office.draw(rng, "person"), office.draw(rng, "subject")
    found = _about(office, subject, office.address(person))
    if not found:
        return None
    body = office.draw(rng, "body")
    last = max(found, key=lambda m: m["sent_datetime"])
    return f"Answer {person}'s latest email with the subject '{subject}': '{body}'", [
        _call("email_reply_email", email_id=last["email_id"], body=body)
    ]


def _forward_email(rng: Random, office: Office) -> Made:
    subject, person = office.draw(rng, "subject"), office.draw(rng, "person")
    last = max(_about(office, subject), key=lambda m: m["sent_datetime"])
    return f"Pass the latest email with the subject '{subject}' on to {person}.", [
        _call("email_forward_email", email_id=last["email_id"], recipient=office.address(person))
    ]


def _send_email(rng: Random, office: Office) -> Made:
    person = office.draw(rng, "person")
    subject, body = office.draw(rng, "new subject"), office.draw(rng, "body")
    return f"Write {person} an email, subject '{subject}', text '{body}'", [
        _call("email_send_email", recipient=office.address(person), subject=subject, body=body)
    ]


def _rename_event(rng: Random, office: Office) -> Made:
    day, name = office.draw(rng, "day"), office.draw(rng, "new event")
    found = [e for e in office.events if e["event_start"].startswith(day)]
    if not found:
        return None
    last = max(found, key=lambda e: e["event_start"])
    return f"Rename the last event of {day} to '{name}'.", [
        _call(
            "calendar_update_event", event_id=last["event_id"], field="event_name", new_value=name
        )
    ]


def _next_meeting(office: Office, person: str) -> Row | None:
    found = [
        e
        for e in office.events
        if e["participant_email"] == office.address(person) and e["event_start"] > f"{TODAY} 23:59"
    ]
    return min(found, key=lambda e: e["event_start"], default=None)


def _cancel_next(rng: Random, office: Office) -> Made:
    person = office.draw(rng, "person")
    event = _next_meeting(office, person)
    if event is None:
        return None
    return f"Call off my next meeting with {person}.", [
        _call("calendar_delete_event", event_id=event["event_id"])
    ]


def _clear_day(rng: Random, office: Office) -> Made:
    day = office.draw(rng, "day")
    found = [e for e in office.events if e["event_start"].startswith(day)]
    if not found:
        return None
    return f"Clear my calendar on {day}.", [
        _call("calendar_delete_event", event_id=e["event_id"]) for e in found
    ]


def _book(rng: Random, office: Office) -> Made:
    day, name = office.draw(rng, "day"), office.draw(rng, "new event")
    person, length = office.draw(rng, "person"), rng.choice(("30", "60", "90"))
    start = f"{day} {rng.randint(9, 16):02d}:{rng.choice(('00', '30'))}:00"
    return f"Book '{name}' with {person} on {start[:16]} for {length} minutes.", [
        _call("calendar_create_event", event_name=name, participant_email=office.address(person),
              event_start=start, duration=length)
    ]  # fmt: skip


def _plot(rng: Random, office: Office) -> Made:
    first, last = sorted((office.draw(rng, "past day"), office.draw(rng, "past day")))
    if first == last:
        return None
    metric, kind = rng.choice(list(_METRICS)), rng.choice(_PLOTS)
    return f"Make a {kind} plot of {_METRICS[metric]} from {first} to {last}.", [
        _call("analytics_create_plot", time_min=first, time_max=last, value_to_plot=metric,
              plot_type=kind)
    ]  # fmt: skip


def _move_tasks(rng: Random, office: Office) -> Made:
    person, board = office.draw(rng, "person"), rng.choice(_BOARDS)
    source, goal = rng.sample(_LISTS, 2)
    found = [
        t
        for t in office.projects
        if (t["assigned_to_email"], t["board"], t["list_name"])
        == (office.address(person), board, source)
    ]
    if not found:
        return None
    return f"Put everything of {person}'s in {source} on the {board} board into {goal}.", [
        _call("project_management_update_task", task_id=t["task_id"], field="list_name",
              new_value=goal) for t in found
    ]  # fmt: skip


def _hand_over_task(rng: Random, office: Office) -> Made:
    name, old, new = (office.draw(rng, kind) for kind in ("project", "person", "person"))
    known = {t["assigned_to_email"] for t in office.projects}
    found = _owned(office, name, old)
    if not found or old == new or office.address(new) not in known:
        return None
    return f"Give {old}'s task '{name}' to {new}.", [
        _call("project_management_update_task", task_id=t["task_id"], field="assigned_to_email",
              new_value=office.address(new)) for t in found
    ]  # fmt: skip


def _delete_task(rng: Random, office: Office) -> Made:
    name, person = office.draw(rng, "project"), office.draw(rng, "person")
    found = _owned(office, name, person)
    if not found:
        return None
    return f"{person}'s task '{name}' is not needed any more; delete it.", [
        _call("project_management_delete_task", task_id=t["task_id"]) for t in found
    ]


def _new_task(rng: Random, office: Office) -> Made:
    person, name = office.draw(rng, "person"), office.draw(rng, "new task")
    if office.address(person) not in {t["assigned_to_email"] for t in office.projects}:
        return None
    board, day = rng.choice(_BOARDS), office.draw(rng, "day")
    return f"Open a task '{name}' for {person} in the Backlog of the {board} board, due {day}.", [
        _call("project_management_create_task", task_name=name, board=board, due_date=day,
              assigned_to_email=office.address(person), list_name="Backlog")
    ]  # fmt: skip


def _take_over(rng: Random, office: Office) -> Made:
    old, new = office.draw(rng, "seller"), office.draw(rng, "seller")
    status, product = rng.choice(_STATUSES), rng.choice(_PRODUCTS)
    found = [
        c
        for c in office.customers
        if (c["assigned_to_email"], c["status"], c["product_interest"])
        == (office.address(old), status, product)
    ]
    if not found or old == new:
        return None
    text = (
        f"{new} takes {old}'s customers with status {status} and interest {product}; assign them."
    )
    return text, [
        _call("customer_relationship_manager_update_customer", customer_id=c["customer_id"],
              field="assigned_to_email", new_value=office.address(new)) for c in found
    ]  # fmt: skip


def _set_status(rng: Random, office: Office) -> Made:
    name, status = office.draw(rng, "customer"), rng.choice(_STATUSES)
    row = next(c for c in office.customers if c["customer_name"] == name)
    if row["status"] == status:
        return None
    return f"Customer {name} is now {status}; note that.", [
        _call("customer_relationship_manager_update_customer", customer_id=row["customer_id"],
              field="status", new_value=status)
    ]  # fmt: skip


def _drop_customer(rng: Random, office: Office) -> Made:
    name = office.draw(rng, "customer")
    row = next(c for c in office.customers if c["customer_name"] == name)
    return f"Take {name} out of the customer list.", [
        _call("customer_relationship_manager_delete_customer", customer_id=row["customer_id"])
    ]


def _new_customer(rng: Random, office: Office) -> Made:
    name, seller = office.draw(rng, "new customer"), office.draw(rng, "seller")
    product = rng.choice(_PRODUCTS)
    return f"New lead: {name}, interested in {product}. {seller} looks after them.", [
        _call("customer_relationship_manager_add_customer", customer_name=name, status="Lead",
              assigned_to_email=office.address(seller), product_interest=product)
    ]  # fmt: skip


def _several(rng: Random, office: Office) -> Made:
    """Two requests about different tables, in one message."""
    first, second = rng.sample(("email", "calendar", "projects", "customers"), 2)
    parts = [rng.choice(_TEMPLATES[kind])(rng, office) for kind in (first, second)]
    if parts[0] is None or parts[1] is None:
        return None
    return f"{parts[0][0]} {parts[1][0]}", [*parts[0][1], *parts[1][1]]


_TEMPLATES: dict[str, tuple[Callable[[Random, Office], Made], ...]] = {
    "email": (_delete_last_email, _reply_to_email, _forward_email, _send_email),
    "calendar": (_rename_event, _cancel_next, _clear_day, _book),
    "analytics": (_plot,),
    "projects": (_move_tasks, _hand_over_task, _delete_task, _new_task),
    "customers": (_take_over, _set_status, _drop_customer, _new_customer),
    "several": (_several,),
}


def tasks(config: WorkplaceTasks, n: int, seed: int) -> list[Task]:
    """`n` different tasks of the configured half. Raises: UserError where it has fewer."""
    found = list(islice(_tasks(config, seed), n))
    if len(found) < n:
        raise UserError(
            f"workplace/{config.half} has {len(found)} different tasks of {', '.join(config.domains)}, "
            f"{n} were asked for; ask for fewer, or for more domains"
        )
    return found


def _tasks(config: WorkplaceTasks, seed: int) -> Iterator[Task]:
    office, rng = _office(config.half), Random(f"workplace/{config.half}/{seed}")
    seen, tries = set[str](), 0
    while tries < _TRIES:
        domain = rng.choice(config.domains)
        made = rng.choice(_TEMPLATES[domain])(rng, office)
        tries += 1
        if made is None or made[0] in seen:
            continue
        tries = 0
        text, calls = made
        seen.add(text)
        kits = {"company_directory", *(_kit(call["name"]) for call in calls)}
        called = {call["name"] for call in calls}
        offered = [
            tool
            for tool in documents()
            if config.tools == "all"
            or (config.tools == "needed" and _kit(tool["name"]) in kits)
            or tool["name"] in called
        ]
        yield Task(
            id=f"workplace-{config.half}-{seed}-{len(seen) - 1}",
            environment="workplace",
            messages=[{"role": "system", "content": _SYSTEM}, {"role": "user", "content": text}],
            tools=offered,
            data={"calls": calls, "domain": domain},
        )


def _kit(tool: str) -> str:
    return next(kit for kit in KITS if tool.startswith(f"{kit}_"))


def _about(office: Office, subject: str, sender: str | None = None) -> list[Row]:
    return [
        m
        for m in office.emails
        if m["subject"] == subject and sender in (None, m["sender/recipient"])
    ]


def _owned(office: Office, name: str, person: str) -> list[Row]:
    return [
        t
        for t in office.projects
        if (t["task_name"], t["assigned_to_email"]) == (name, office.address(person))
    ]


def _topic(subject: str) -> str:
    return subject.removeprefix("Task Update on ")


@cache
def _addresses() -> tuple[str, ...]:
    return tuple(fresh()["company_directory"]._emails["email_address"])


@cache
def _office(half: str) -> Office:
    kits = fresh()
    emails, events, projects, customers = (
        json.loads(getattr(kits[kit], name).to_json(orient="records"))
        for kit, name in (
            ("email", "_emails"), ("calendar", "_calendar_events"),
            ("project_management", "_project_tasks"),
            ("customer_relationship_manager", "_crm_data"),
        )
    )  # fmt: skip
    everyone = {
        "person": (a.split(".")[0].capitalize() for a in _addresses()),
        "project": (t["task_name"] for t in projects),
        "customer": (c["customer_name"] for c in customers),
        "day": _DAYS, "past day": _PAST_DAYS, "body": _BODIES, "new subject": _SUBJECTS,
        "new task": _NEW_TASKS, "new event": _NEW_EVENTS, "new customer": _NEW_CUSTOMERS,
    }  # fmt: skip
    parity = 0 if half == "train" else 1
    values = {kind: tuple(sorted(set(found)))[parity::2] for kind, found in everyone.items()}
    # A mail about a project task belongs where the task does, a seller where the person does.
    known = {t["task_name"] for t in projects}
    values["subject"] = tuple(
        subject
        for place, subject in enumerate(sorted({m["subject"] for m in emails}))
        if (
            _topic(subject) in values["project"]
            if _topic(subject) in known
            else place % 2 == parity
        )
    )
    sellers = {c["assigned_to_email"].split(".")[0].capitalize() for c in customers}
    values["seller"] = tuple(person for person in values["person"] if person in sellers)
    return Office(half, emails, events, projects, customers, values)
