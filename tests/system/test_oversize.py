"""Large mail of a link waits for the hours that are kept for it, by the clock on the wall; all other mail goes beside it."""

from datetime import UTC, datetime, timedelta

import pytest

from harness import smtp
from harness.wall_clock import WallClock

BOB, CAROL = "bob@remote.example", "carol@remote.example"
HOURS = 'oversize = "10KB"\noversize_window = ["22:00-06:00"]'
LARGE = 30_000


class Wall(WallClock):
    """A clock that shows an hour of tomorrow, in UTC."""

    def set_to(self, hour):
        now = datetime.now(UTC)
        then = (now + timedelta(days=1)).replace(hour=hour, minute=0, second=5, microsecond=0)
        self.set_by(int((then - now).total_seconds()))


@pytest.fixture
def clock(place):
    return Wall(place.folder)


@pytest.fixture
def site(scene, clock):
    """`site(hour)`: a site whose link keeps hours for large mail, at that hour of its day."""

    def begin(hour, of_link=HOURS, zone="UTC", **settings):
        clock.set_to(hour)
        env = clock.env | {"TZ": zone}
        stage = scene(provider=False, relay=False, env=env, of_link=of_link, **settings)
        stage.relay.start()
        return stage

    return begin


def hand_in(stage, size=100, recipients=(BOB,)):
    """One message of about so many octets; its Message-ID."""
    content, id = smtp.message(body="0123456789\n" * (size // 12))
    smtp.submit(stage.relay.site, "alice@branch.example", recipients, content)
    return id


def triggers(stage):
    cycles = stage.relay.client.call("CycleService/ListCycles", parent="links/isp")["cycles"]
    return [cycle["trigger"] for cycle in cycles]


def queued(stage):
    return int(stage.relay.client.call("LinkService/GetLink", name="links/isp")["queued_messages"])


def goes(stage):
    """The Message-IDs that a cycle sends, in their order."""
    before = len(stage.world.mails)
    sent = stage.relay.run_cycle()["sent"]
    ids = [mail.id for mail in stage.world.mails[before:]]
    assert len(ids) == sent, "each counts once"
    return ids


def restart(stage, old="", new=""):
    stage.relay.terminate()
    text = stage.relay.config.read_text()
    assert old in text
    stage.relay.write(text.replace(old, new))
    stage.relay.start()


def test_large_mail_waits_and_goes_by_itself_when_its_hours_begin(site, clock):
    """It triggers nothing while it waits, and holds up nothing; it counts once, however many recipients it has."""
    stage = site(12, trigger="[{ queued = 2 }]")
    large = hand_in(stage, LARGE, recipients=(BOB, CAROL))
    [waiting] = stage.relay.messages()
    assert {one["route"] for one in waiting["recipients"]} == {"oversize:isp"}
    assert queued(stage) == 1
    small = hand_in(stage)
    # Between two cycles it is decided whether one starts.
    assert goes(stage) == [small]
    assert goes(stage) == []
    assert set(triggers(stage)) == {"API"}, "two messages were queued, and one of them was to wait"
    clock.set_to(22)
    assert {mail.id for mail in stage.world.wait_for(2)} == {small, large}
    stage.relay.wait_for_states({BOB: "DELIVERED", CAROL: "DELIVERED"})
    assert triggers(stage).count("QUEUE") == 1
    assert stage.world.mails[1].recipients == (BOB, CAROL)


def test_when_the_clock_leaves_the_hours_large_mail_waits_again(site, clock):
    """Also when it is set to a time that cannot be, though that is an hour of the window."""
    stage = site(23)
    first = hand_in(stage, LARGE)
    assert goes(stage) == [first]
    clock.set_to(12)
    second = hand_in(stage, LARGE)
    assert goes(stage) == []
    clock.set_to_1970()
    assert goes(stage) == []
    assert queued(stage) == 1
    clock.set_to(5)
    assert goes(stage) == [second]


def test_the_small_goes_first_and_both_in_one_cycle(site):
    stage = site(23, connections=1)
    large = [hand_in(stage, LARGE) for _ in range(2)]
    small = [hand_in(stage) for _ in range(3)]
    assert goes(stage) == small + large


@pytest.mark.parametrize("zone, opens", [("<+10>-10", True), ("Asia/Tokyo", True), ("<+05>-5", False), ("No/Where", False)])
def test_hours_are_those_of_the_time_zone(site, zone, opens):
    """Midday in UTC is night in the east. A zone that is not known is told, and hours are UTC."""
    stage = site(13, zone=zone)
    large = hand_in(stage, LARGE)
    assert goes(stage) == ([large] if opens else [])
    warning = "the time zone of this machine is not known: the hours of large mail are UTC"
    assert len(stage.relay.logged(warning)) == (zone == "No/Where")


class Closing(dict):
    """Sets the clock when a recipient is offered."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def __contains__(self, address):
        self.clock.set_to(12)
        return False


def test_no_large_message_is_begun_when_the_hours_are_over(site, clock):
    """The one that is under way goes to its end; the others wait."""
    stage = site(23, of_link=f"{HOURS}\nflight_messages = 1", connections=1, refuse=Closing(clock))
    large = [hand_in(stage, LARGE) for _ in range(3)]
    assert goes(stage) == large[:1]
    assert queued(stage) == 2
    assert goes(stage) == []


def test_a_changed_size_holds_for_what_is_queued(site):
    """In both directions, and for what is queued when a link gets hours or loses them."""
    stage = site(12, of_link="")
    large = [hand_in(stage, LARGE) for _ in range(2)]
    restart(stage, "redial_after", f"{HOURS}\nredial_after")
    assert goes(stage) == []
    restart(stage, 'oversize = "10KB"', 'oversize = "1MB"')
    assert goes(stage) == large
    larger = hand_in(stage, 1_200_000)
    restart(stage, 'oversize = "1MB"\noversize_window = ["22:00-06:00"]\n')
    assert goes(stage) == [larger]


def test_what_is_sent_over_the_link_by_hand_does_not_wait(site):
    """An operator who re-routes it to `link:isp` has it go by day, also after a restart. To try it now does not open its
    hours; held and released it waits for them again, and so it does where the routes say."""
    stage = site(12)
    queue = lambda *arguments: stage.relay.cli("queue", *arguments).stdout
    large = hand_in(stage, LARGE)
    for command in ["expedite", "hold", "release"]:
        assert queue(command, "--route", "oversize:isp").startswith("1 recipient of 1 message")
    assert queue("reroute", "--route", "oversize:isp", "--by-routes") == "nothing that fits was changed\n"
    assert goes(stage) == []
    assert queue("reroute", "--route", "oversize:isp", "--to", "link:isp") == "1 recipient of 1 message rerouted\n"
    assert queue("reroute", "--route", "link:isp", "--by-routes") == "1 recipient of 1 message rerouted\n"
    assert goes(stage) == []
    queue("reroute", "--route", "oversize:isp", "--to", "link:isp")
    restart(stage)
    assert goes(stage) == [large]


def test_a_sender_hears_that_large_mail_waits_for_its_hours(site):
    """Late mail is told of as all is; not that the line is missing, for it is not."""
    stage = site(12)
    restart(stage, "[retry]\n", '[retry]\nwarn_after = "1s"\n')
    hand_in(stage, LARGE)
    [report] = stage.mailbox.wait_for(1)
    assert "it is large, and waits for the hours of such mail" in report.parsed.as_string()
    assert "Action: delayed" in report.parsed.as_string()
