from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t

from parallel_actors.workers.arena cimport Holds
from parallel_actors.workers.codec cimport Codec, Encoded
from parallel_actors.workers.ident cimport Pid, Ref
from parallel_actors.workers.names cimport NameTable
from parallel_actors.workers.preempt cimport Tick
from parallel_actors.workers.ring cimport Inbox, Outbox, Record
from parallel_actors.workers.segment cimport Segment
from parallel_actors.workers.steal cimport Exports, Loot
from parallel_actors.workers.timers cimport Timer, TimerHeap

cdef enum Kind:
    CALLBACK = 1        # body(message) once per message; no stack in between
    STACK = 2           # a plain def: borrows a carrier while it lives
    ASYNC = 3           # a coroutine: its frame waits, no carrier
    GUEST = 4           # a thread that the library didn't start: its own stack, polled while it waits

cdef enum State:
    IDLE = 0            # a callback process without mail
    QUEUED = 1          # in the run queue (or, for a guest, due)
    RUNNING = 2
    BLOCKED = 3
    DEAD = 4

cdef enum Wait:
    NOTHING = 0
    MAIL = 1            # any new message wakes
    SLEEP = 2           # only its timer (and exits)
    REPLY = 3           # only the answer to `awaited`
    FLOW = 4            # only a drained overflow (S2.5), or a mailbox that has room again (S9.8)
    TASKS = 5           # only what its asyncio loop waits for

cdef enum Flag:
    TRAP_EXIT = 1
    SPREAD = 2          # spawns of this process spread over the workers
    SYSTEM = 4          # exempt from suspension, not stopped by STOP, not counted
    SCANNING = 8        # a pattern or __setstate__ of this process runs: no receive inside it
    EXITING = 16        # dead to everybody else; its stack unwinds
    SHUTTING = 32       # has been told to shut down
    HOG = 64            # was cut while it computed, and hasn't waited for anything since
    WAITS_LOCK = 128    # stood still in a lock of the standard library when it was cut
    UNCUT = 256         # options(preempt=False)
    ENDING = 512        # its body is over; the runtime makes the exit reason of it
    LONG_MAIL = 1024    # its long mailbox has been reported
    TERMINATES = 4096   # its parent's orders to end come to it as messages: it has cleaning up to do
    LATE = 2048         # held the worker too long, and was reported for it
    KEEPS = 8192        # is not to be taken by other workers, or moved for the sake of balance
    EXPORTED = 16384    # hasn't begun, and stands in a slot of `exports`; its number is in `resume`
    AWAY = 32768        # a stub: the process runs on another worker
    CARRIED = 65536     # not at home, or was away: what it sends goes in FROM
    FROZEN = 131072     # packed, and kept until it is known to be at home
    STAYED = 1048576    # could not be packed, or not unpacked: no more for the sake of balance
    MOVING = 262144     # is to be moved between two messages
    LIMITED = 524288     # its mailbox has a limit: `Scheduler.limits`

cdef enum Priority:
    NORMAL_PRIORITY = 0
    HIGH_PRIORITY = 1
    LOW_PRIORITY = 2

cdef enum Trait:        # of a new process; they travel in the aux of its SPAWN
    WILL_SPREAD = 1
    WILL_STAY = 2       # is never cut
    TRAIT_PRIORITY = 2  # its priority (2 bits), shifted by this
    WILL_START = 32     # its parent waits until it is up: nobody steals it
    WILL_KEEP = 16      # stays on the worker where it is born
    WILL_LIMIT = 4096   # the limits of its mailbox stand behind its name

cdef enum Signal:
    LOST = 1            # a large body that there was no memory for
    MSG = 2
    ALIAS = 3
    SPAWN = 4
    EXIT = 5
    LINK = 6
    UNLINK = 7
    MONITOR = 8
    DEMONITOR = 9
    DOWN = 10
    REQUEST = 11
    WDOWN = 12
    STOP = 13
    ANSWER = 14
    # Processes that run elsewhere; docs/internals.md
    FORWARD = 15        # home -> host: a record for a process, as it came to its home
    FROM = 16           # host -> any: a record from a process that is not at home, or was away
    STOLEN = 17         # host -> home: it has begun here
    LINKED_TO = 18      # host -> home: it has made a link,
    UNLINKED_FROM = 19  #               or taken one off
    ENDED = 20          # host -> home
    HEARD = 21          # home -> host: the incarnations that the home believes in
    ARRIVE = 22         # home -> host: a packed process
    ARRIVED = 23        # host -> home: it is here,
    REJECTED = 24       #               or can't be unpacked
    RECALL = 25         # home -> host: pack it
    PACKED = 26         # host -> home
    STAYS = 27          # host -> home: it can't be packed
    PAUSE = 30          # host -> home: it is between two messages; send nothing any more
    PAUSED = 31         # home -> host
    SHED = 40           # root -> worker: move some of its processes to another
    DROP = 28           # home -> host: what was packed is at home,
    RESUME = 29         #               or isn't
    MAILBOX = 32        # flags: News
    AWAY_WITH = 33      # host -> home: the host leaves, let it run elsewhere

cdef enum Answer:
    GIVEN = 1
    REFUSED = 2

cdef enum How:          # a process is spawned
    LINKED = 1
    MONITORED = 2       # with a reference
    AWAITED = 4         # its parent waits for an answer with that reference, or for its end

cdef enum MsgFlag:
    IS_CALL = 1         # its head goes on with the caller's pid and reference; the body is the request alone
    IS_TAGGED = 2       # ... and its answer comes as a message
    IS_ORDER = 4        # it isn't counted by a limited mailbox

cdef enum Policy:       # what becomes of a message that a limited mailbox has no room for
    SUSPEND = 0
    FAIL = 1
    DROP_NEWEST = 2
    DROP_OLDEST = 3

cdef enum News:         # between the home of a limited mailbox and those that send to it
    FULL = 1            # home -> sender's endpoint: pid hi lo; aux: Policy
    ROOM = 2            # home -> sender's endpoint: pid hi lo
    COUNTS = 3          # sender's endpoint -> home: pid lo, senders suspended, messages refused there

cdef enum ExitFlag:
    BY_LINK = 1
    IS_NORMAL = 2
    IS_KILL = 4


cdef class Envelope:
    cdef Envelope next
    cdef object body            # the message, or Encoded until the receiver looks at it


cdef class Counted(Envelope):
    """One that counts against the limit of its mailbox."""
    cdef Py_ssize_t size


cdef class MailboxLimit:
    """What a limited mailbox may hold, and what it holds of that kind. Invariant: count is the number of its Counted envelopes."""
    cdef Py_ssize_t most, most_bytes    # 0: no limit
    cdef int policy
    cdef Py_ssize_t count, bytes
    cdef uint64_t dropped, refused, suspended
    cdef list held              # Processes of this endpoint that wait for room, or None
    cdef dict told              # endpoint -> its incarnation, of those that know that it is full; or None
    cdef bint has_room(self, Py_ssize_t size) noexcept
    cdef bint is_full(self) noexcept
    cdef bint is_low(self) noexcept


cdef class FullMailbox:
    """A mailbox of another endpoint that is full: who waits for it here."""
    cdef int policy
    cdef list held
    cdef uint64_t refused


cdef class Link:
    cdef uint64_t own           # id of the LINK that this side sent last; 0 = none
    cdef uint64_t peer          # id of the LINK last received from the other side; 0 = none


cdef class Place:
    """What a process needs that isn't where its pid says, or was away."""
    cdef uint32_t host, incarnation     # stub: who runs it
    cdef int slot                       # stub: where the thief has it from, until it is known to have begun; -1
    cdef dict late                      # stub: reference of a watcher, pid of a link -> `passed` when it was forwarded
    cdef uint64_t passed                # LINKs and MONITORs: that the stub has forwarded; that the process has got from there
    cdef list held                      # stub: [(kind, flags, aux, bytes)] until it is known who runs it; None: everything is forwarded
    cdef bint leaving                   # stub: it has been sent, and what it left is kept; else, with `held`, it was recalled, or is being stolen
    cdef bint paused                    # process, frozen: its home holds what comes for it
    cdef list timers                    # [(hi, lo, deadline, period, message)] that it has taken along, and gets back if it stays
    cdef list believed                  # process: the incarnations that its home knows of, as far as it is told; None: all live
    cdef int next_host                  # stub of a relay: to whom it was sent on, which hasn't answered yet; -1
    cdef uint32_t next_incarnation
    cdef dict fences                    # process: endpoint -> (hi, position) of a former host's ring to there, its incarnation


cdef class Move:
    """An order to move a process."""
    cdef int target                     # worker
    cdef list askers                    # [(hi, lo)] of references to answer to


cdef class Extra:
    """What only some processes have, made on first use."""
    cdef dict links             # Pid -> Link
    cdef dict monitors          # Ref -> Pid: what this process watches
    cdef dict watchers          # Ref -> Pid: who watches this process
    cdef dict aliases           # Ref -> None
    cdef list tied              # endpoints whose `ties` hold this process
    cdef dict dictionary        # the process dictionary
    cdef dict fds               # Ref -> FdMonitor
    cdef str name
    cdef object label
    cdef Place place


cdef class Watch:
    """Whom an epoll descriptor tells that another one is ready. Invariant: watched_fds[fd] is self, while it is watched."""
    cdef readonly int fd
    cdef uint32_t events            # EPOLLIN, EPOLLOUT that are waited for
    cdef bint muted                 # out of the epoll for a while: it is ready, and nobody has time for it
    cdef int ready(self, uint32_t events) except -1     # between two turns, or in a tick: no user code


cdef class FdMonitor(Watch):
    """`monitor_fd`: one message, then it is over."""
    cdef Process process
    cdef Ref ref


cdef class Tasks:
    """What a process has that awaits asyncio; see loops.pyx."""
    cdef Process process
    cdef bint at_rest               # the process waits for whatever its loop waits for
    cdef bint woken                 # something has come for its loop since that ran last
    cdef Timer timer                # when its loop has something to do, or None
    cdef int wake(self) except -1
    cdef bint turn(self) except -1                      # of a coroutine process; True: it has ended
    cdef bint joined(self, object coroutine, object yielded) except -1
    cdef object drive(self, object coroutine, object yielded, bint begun)
    cdef int background(self) except -1                 # of a callback process, between two messages
    cdef int part(self) except -1
    cdef int end(self) except -1
    cdef bint busy(self) except -1
    cdef object wait_in_task(self, object patterns, double limit, object timeout, object default)


cdef class Loops:
    """asyncio, as far as the scheduler knows it; `Scheduler.loops` where this worker has imported it."""
    cdef Tasks tasks_of(self, Process p)
    cdef int join(self, Process p) except -1
    cdef object leave(self)
    cdef int enter(self, object loop) except -1


cdef class Process:
    cdef Scheduler scheduler
    cdef readonly Pid pid
    cdef uint8_t kind
    cdef uint8_t state
    cdef uint8_t wait
    cdef uint8_t timed_out
    cdef uint8_t priority
    cdef uint8_t shield         # depth of no_preempt()
    cdef uint16_t raised        # how often its end was raised in it while it unwinds
    cdef uint16_t ticks         # that it has used since it was told to end
    cdef int flags
    cdef Process next           # run queue. Invariant: linked there exactly while state == QUEUED (guests: never)
    # Mailbox: Invariant: first is None <=> last is None <=> mail == 0
    cdef Envelope first
    cdef Envelope last
    cdef Py_ssize_t mail
    cdef Envelope save          # the last envelope that the receive under way has looked at
    cdef Envelope mark          # receive mark (S3.2): what the newest Ref can't be in ends with this envelope
    cdef uint64_t mark_lo
    cdef object body            # callable, coroutine, or Encoded (function, args, kwargs)
    cdef object args
    cdef object kwargs
    cdef object carrier         # its greenlet while suspended
    cdef object context         # its contextvars while it holds no stack
    cdef object pending         # exception to raise at the next resume
    cdef object resume          # what the coroutine is resumed with
    cdef Timer timer
    cdef uint64_t awaited       # lo of the reference whose answer it waits for; 0: it waits for none
    cdef uint8_t answered       # whether it is there: an Answer
    cdef object reply           # the answer, or why there is none
    # Who waits for an answer of whom, on one endpoint. Invariant: p is in the chain of p.asked.callers, and in no other.
    cdef Process asked
    cdef Process callers        # the first of the chain of those that wait for this process
    cdef Process next_caller, former_caller
    cdef object lineage         # tuple of ancestors, nearest first
    cdef Extra extra
    cdef Tasks tasks            # None: it has never awaited anything where asyncio was imported

    cdef Extra more(self)
    cdef int put_link(self, Pid other, Link link) except -1
    cdef Link link_with(self, Pid other)
    cdef int put_monitor(self, Ref ref, Pid target) except -1
    cdef int put_watcher(self, Ref ref, Pid watcher) except -1
    cdef int append(self, object body) except -1
    cdef void chain(self, Envelope envelope) noexcept
    cdef object unlink(self, Envelope before, Envelope envelope)


cdef class RunQueue:
    """First in, first out, linked through `Process.next`."""
    cdef Process head, tail
    cdef void push(self, Process p) noexcept
    cdef Process pop(self)


cdef class Handler:
    """What a callback process may have as its body, to be called without the detour by Python."""
    cdef bint handle(self, object message) except -1    # True: the process ends


cdef class Loop:
    """What a `def` body returns to live on as a callback process."""
    cdef object handler


cdef class Scheduler:
    cdef object __weakref__
    cdef readonly Segment segment
    cdef readonly Codec codec
    cdef readonly NameTable names
    cdef readonly uint32_t endpoint, incarnation
    cdef readonly str role          # "worker", "root" or "guest"
    cdef uint64_t hi
    cdef uint64_t root_hi, root_lo
    cdef dict table                 # lo -> Process, alive
    cdef dict aliases               # lo of Ref -> (Process, reply-once)
    cdef dict requests              # lo of Ref -> (Process, endpoint asked, its incarnation): questions to endpoints, calls of threads
    cdef dict calls                 # the same for calls to processes of other endpoints
    cdef dict unborn                # lo -> [(kind, flags, aux, bytes)]
    cdef dict ref_timers            # (hi, lo) -> Timer
    cdef list ties                  # per endpoint: set of Processes with links or monitors there
    cdef list outboxes, inboxes     # per endpoint, made on first use
    cdef list flow_waiting          # Processes suspended by a full overflow
    cdef dict limits                # lo -> MailboxLimit of the processes whose mailboxes have one. Invariant: those with LIMITED
    cdef dict full                  # Pid -> FullMailbox, of other endpoints
    cdef tuple mailbox_default      # (messages, bytes, Policy) of processes that are spawned here without limits of their own; or None
    cdef uint32_t *believed         # incarnation per endpoint
    cdef uint64_t *spawned          # spawns of this endpoint per home
    cdef uint64_t *spawned_before   # what of it was for incarnations that are dead now
    cdef uint64_t *seen             # highest spawn counter seen, per spawner
    cdef uint8_t *again             # inboxes with more to read than one turn takes
    cdef int again_count
    cdef Py_ssize_t backlog         # outboxes with an overflow
    cdef Holds holds                # the blocks that the record handed to `signal` mentions, which takes them first of all
    cdef bint flying                # there may be blocks under way that this OS process still holds
    cdef int64_t trimmed            # when memory of free blocks was last given back
    cdef list owing                 # inboxes whose reset there was no memory for
    cdef Exports exports            # of a worker: processes that others may take
    cdef list exported              # slot -> Process
    cdef object fresh               # deque of processes that wait for a slot
    cdef uint32_t offers            # that have been thought of
    cdef int64_t offered_at         # when the latest was, ns
    cdef int64_t steal_age          # ns that work must have waited before it is stolen
    cdef int64_t stolen_at          # when the latest stolen process began; 0: that was judged already
    cdef int unstolen               # exports in a row that nobody has taken
    cdef dict function_bytes        # function -> its encoding
    cdef readonly uint64_t steals   # processes taken from others
    cdef list foreign               # per home: {lo: Process}, or None: processes of other homes that run here
    cdef readonly Py_ssize_t foreign_count
    cdef list away                  # per host: {lo: Process}, or None: stubs of ours
    cdef Py_ssize_t away_count
    cdef dict hosted                # worker -> its incarnation: those that run processes of ours, or have
    cdef bint nobody_gone           # what was held for one that has come home is replayed
    cdef bint releasing             # what was held for a stub is forwarded
    cdef dict relayed               # number of our reference -> (lo, flags, aux, REQUEST): questions about processes that run elsewhere
    cdef list arriving              # processes that have arrived, while their homes can't read that yet
    cdef list late_ends             # (hi, lo, passed) of ENDED that wait until what they have sent can be read
    cdef dict moves                 # lo -> Move: of our processes
    cdef list packages              # (kind, endpoint, its incarnation, bytes): ARRIVE and PACKED that wait to be unpacked
    cdef list due_moves             # Processes that are to be moved, or packed, when they can be
    cdef dict shed_at               # Pid -> ns: when a process was moved for the sake of balance
    cdef list leavers               # of a worker that leaves: Processes that are to be sent away at this look,
    cdef int64_t leavers_at         # when the next look is due,
    cdef set stayers                # (hi, lo) of those that can't be packed,
    cdef dict asked_away            # and Pid -> when its home is asked again
    cdef Process interrupter        # whose turn makes a process that computes give way
    cdef set kept_timers            # of a relay: (hi, lo) of the timers that were started there
    cdef dict passing               # of a relay: lo -> stub that was sent on
    cdef readonly bytes post        # what somebody else goes on with, where this worker has left and its processes live elsewhere; or None
    cdef dict moved_timers          # (hi, lo) -> Pid with which a timer has moved away
    cdef Process behalf             # whose end is being told, when it isn't `current`
    cdef uint64_t behind            # a stub's end is being told: everything that this host (its `hi`) has published comes before; 0
    cdef uint8_t *reading           # endpoints whose ring is being read
    cdef RunQueue high, normal, low # by priority
    cdef RunQueue hogs              # cut while they computed: they get every second tick while others have work
    cdef readonly Py_ssize_t queue_length   # of all four together
    cdef int low_passed             # normal processes taken since the last one of `low`
    cdef Tick tick                  # None: this endpoint's processes are never cut (root, guests)
    cdef bint hog_due               # a tick has passed since a hog had its turn
    cdef bint asleep                # in epoll
    cdef int guarded                # ticks since user code began on the runtime's own account (a reason, say); 0 = none does
    cdef int64_t guarded_at         # when that was
    cdef readonly bint forked       # this is a copy, in an OS process that user code has forked: it must not touch the rings
    cdef int64_t spin               # ns that a look at the rings goes on before it becomes a sleep; 0: not at all
    cdef object stood_at            # (frame, instruction) of the latest tick in code that may hold a lock
    cdef int stood                  # ticks in a row there
    cdef public object threads      # blocking.Threads, made at the first run_blocking()
    cdef bint collecting            # the garbage collector runs: finalizers may be called anywhere
    cdef bint collect_due           # a full garbage collection is
    cdef object ballast             # let go when memory is used up
    cdef bytes no_body              # a body that raises MemoryError, encoded: for a spawn that there is no memory for
    cdef bytes no_reason            # the reason "system_limit", encoded: for one that there is no memory for
    cdef int collections            # of the middle generation since the last full one
    cdef object collector           # who decides what a full one looks at (collector.py)
    cdef uint64_t slices            # turns given to processes
    cdef uint64_t ticked_slice      # `slices` at the latest tick
    cdef int64_t ticked_at          # when that was
    cdef int64_t uncut_since        # since when the running process has kept others waiting; 0 = it doesn't
    cdef uintptr_t base             # the C stack where every process begins
    cdef int64_t awake_since        # when it woke from its latest sleep,
    cdef uint64_t awake             # and how long it was awake before that, ns
    cdef dict profile               # Process -> ticks that found it running; halved every second
    cdef int64_t profiled_at        # when that was done
    cdef uint64_t beats             # ticks that found a process which computes for itself, or could take the processor from it
    cdef readonly uint64_t cuts     # how often a process was cut
    cdef readonly int64_t long_schedule     # ns that a process may keep others waiting before it is reported
    cdef Py_ssize_t long_mailbox    # messages at which a mailbox is reported
    cdef Process current            # who runs; None in the runtime itself
    cdef Process starting           # handed to the next pooled carrier
    cdef object hub                 # greenlet that makes carriers
    cdef object carrier             # the carrier greenlet that runs now
    cdef object handed              # where the hub switches to for a carrier that has ended
    cdef list pool                  # idle carriers
    cdef Py_ssize_t ended_carriers  # since malloc was told to give memory back
    cdef list abandoned             # carriers of processes that swallowed their kill: never resumed
    cdef TimerHeap timers
    cdef int64_t now
    cdef uint64_t turn
    cdef readonly uint64_t handled
    cdef uint64_t ref_counter, link_counter
    cdef int reductions
    cdef Py_ssize_t exiting         # processes whose stacks still unwind
    cdef Py_ssize_t system_processes
    cdef int epoll
    cdef Process janitor            # whose finalizers run in a full garbage collection
    cdef Process interval_server    # ends send_interval timers of dead receivers
    cdef dict watched_fds           # fd -> callable or Watch
    cdef readonly Loops loops       # None: nobody has imported asyncio here
    cdef int stopping               # 0, or the phase of STOP
    cdef int hastened               # 0, or the phase for who runs here still while we leave
    cdef bint leaving               # this worker is to end as soon as nobody lives here; others take what its processes spawn
    cdef readonly bint closed
    cdef dict services              # name of a module of the engine -> what it keeps here
    cdef Py_ssize_t tables          # that have their place here (ets.pyx)
    cdef public dict partial_lines  # pid -> its unfinished lines (see output.py)
    cdef public object on_report    # callable(kind, dict): crash reports, dead letters
    cdef public object limit        # limit.ReportLimit: how many of them there may be; None: any number
    cdef readonly object lost       # guest: why the system is gone, or None

    cpdef object service(self, str name)
    cpdef bint admits(self, str kind) except -1
    # processes
    cdef Process new_process(self, uint64_t lo, int kind)
    cdef int give_traits(self, Process p, int traits) noexcept
    cdef object decoded(self, Encoded message)
    cdef Process find(self, uint64_t lo)
    cdef bint is_unborn(self, uint64_t lo) noexcept
    cdef Ref make_ref(self, Process p)
    cdef Pid spawn(self, object function, tuple args, dict kwargs, int how, Ref ref, object options)
    cdef int birth(self, Record *r, Holds holds) except -1
    cdef int place(self, Process parent, int wish) except -1
    cdef int age_profile(self, int64_t now) except -1
    # signals
    cdef int deliver(self, Process p, object body) except -1
    cdef int report_long_mailbox(self, Process p) except -1
    cdef MailboxLimit limit_of(self, Process p)
    cdef int limit_mailbox(self, Process p, object limits) except -1
    cdef int take_in(self, Process p, object body, Py_ssize_t size) except -1
    cdef int admit(self, Process p, object body, bint waits) except -1
    cdef int admit_from(self, uint32_t e, Process p, object body, Py_ssize_t size) except -1
    cdef int drop_oldest(self, Process p, MailboxLimit limit, Py_ssize_t size) except -1
    cdef int unanswered(self, Process p, object body) except -1
    cdef int taken_out(self, Process p, Envelope envelope) except -1
    cdef int let_in(self, Process p, MailboxLimit limit) except -1
    cdef int wake_held(self, list held) except -1
    cdef FullMailbox full_mailbox(self, Pid to)
    cdef int await_room(self, Pid to, FullMailbox full) except -1
    cdef int mailbox_news(self, Record *r) except -1
    cdef int has_room_again(self, Pid pid) except -1
    cdef int send_order(self, Pid to, object message) except -1
    cdef int send_request(self, Process p, Pid to, Ref ref, object request, bint order) except -1
    cdef object received(self, const uint8_t *data, size_t n, Holds holds)
    cdef Holds packed(self)
    cdef int send_pid(self, Pid to, object message, bint own=*) except -1
    cdef int send_ref(self, Ref to, object message, bint own=*) except -1
    cdef int put(self, uint32_t e, uint32_t inc, int kind, int flags, const void *head, size_t nhead, bytes payload, bint may_block, int aux=*, Holds holds=*) except -1
    cdef int exit_signal(self, Pid to, Pid sender, object reason, int flags, uint64_t seen) except -1
    cdef int take_exit(self, Process p, Pid sender, object reason, int flags, uint64_t seen) except -1
    cdef bint gone(self, Pid other)
    cdef int send_bytes(self, object dest, bytes data) except -1
    cdef int take_alias(self, uint64_t lo, object body) except -1
    cdef int pass_alias(self, uint64_t lo, bytes body, Holds holds=*) except -1
    cdef int add_link(self, Process p, Pid other) except -1
    cdef int remove_link(self, Process p, Pid other) except -1
    cdef int take_link(self, Process p, uint64_t lo, Pid other, uint64_t link_id) except -1
    cdef int take_unlink(self, Process p, Pid other, uint64_t seen) except -1
    cdef int add_monitor(self, Process p, Ref ref, Pid target) except -1
    cdef bint remove_monitor(self, Process p, Ref ref) except -1
    cdef int take_monitor(self, Process p, uint64_t lo, Pid watcher, Ref ref) except -1
    cdef int send_down(self, Pid watcher, Ref ref, Pid target, object reason) except -1
    cdef int take_down(self, Process p, Ref ref, Pid target, object reason) except -1
    cdef int tie(self, Process p, Pid other) except -1
    cdef int terminate(self, Process p, object reason) except -1
    cdef int terminate_now(self, Process p, object reason) except -1
    cdef int endpoint_down(self, uint32_t e, uint32_t inc, int cause) except -1
    cdef object drive(self, object coroutine)
    cdef int call(self, Process p, Pid to, object request, double timeout, bint order) except -1
    cdef int begin_wait(self, Process p, Process q, Pid to, Ref ref) except -1
    cdef int wait_for(self, Process p, uint64_t lo) except -1
    cdef int await_answer(self, Process p, double timeout) except -1
    cdef int end_wait(self, Process p, Ref ref, Pid to) except -1
    cdef void leave(self, Process p) noexcept
    cdef int reply(self, Pid to, Ref ref, object value) except -1
    cdef int settle(self, Process p, uint64_t lo, int how, object value) except -1
    cdef int may_act(self) except -1
    cdef object ask(self, uint32_t e, uint32_t inc, object operation, double timeout)
    cdef int answer(self, Record *r) except -1
    cdef uint64_t unborn_of(self, tuple operation) except? 0
    cdef object lives(self, uint64_t lo)
    cdef object perform(self, tuple operation, Process p=*)
    cdef int answer_to(self, uint64_t hi, uint64_t lo, tuple reply) except -1
    # processes that run elsewhere
    cdef Process local(self, uint64_t lo)
    cdef bint elsewhere(self, uint64_t lo)
    cdef int hold(self, uint64_t lo, int kind, int flags, int aux, object body) except -1
    cdef int forward_kept(self, Process p, int kind, int flags, int aux, object body) except -1
    cdef int forward(self, Process p, int kind, int flags, int aux, const uint8_t *body, size_t size, Holds holds=*) except -1
    cdef int signal_from(self, uint32_t e, Record *r, Holds holds) except -1
    cdef int signal_forwarded(self, uint32_t e, Record *r, Holds holds) except -1
    cdef object body_of(self, Record *r, Holds holds)
    cdef int act_on(self, Process p, Record *r, Holds holds) except -1
    cdef int catch_up(self, uint64_t hi, uint64_t position) except -1
    cdef int offer(self, Process p, bint user_code) except -1
    cdef int refill(self) except -1
    cdef bint recall(self, Process p) except -1
    cdef int make_stub(self, Process p, uint32_t host, uint32_t incarnation) except -1
    cdef int unmake_stub(self, Process p) except -1
    cdef int come_home(self, Process p) except -1
    cdef int release_held(self, Process p) except -1
    cdef int send_beliefs(self, Process p) except -1
    cdef int host_down(self, uint32_t e, uint32_t inc, object reason) except -1
    cdef int home_down(self, uint32_t e, uint32_t inc) except -1
    cdef int fire_gone(self, Process p, list believed) except -1
    cdef Process steal(self)
    cdef Process take_loot(self, bytes data, Loot *loot)
    cdef Process add_foreign(self, uint64_t hi, uint64_t lo, int kind, int flags)
    cdef int remove_foreign(self, Process p) except -1
    cdef int tell_home(self, Process p, int kind, uint64_t b, uint64_t c, uint64_t d, bytes payload=*, Holds holds=*) except -1
    cdef int order_move(self, Process p, int target, uint64_t hi, uint64_t lo) except -1
    cdef int shed(self, int taker, int64_t share) except -1
    cdef int moved(self, uint64_t lo, object error) except -1
    cdef bint between_messages(self, Process p) noexcept
    cdef int make_moves(self) except -1
    cdef int unpack_all(self, int64_t only) except -1
    cdef bint nobody_here(self) noexcept
    cdef int least_loaded(self, int not_this) noexcept
    cdef uint32_t coming_to(self, uint32_t e) noexcept
    cdef int send_away(self) except -1
    cdef int turn_down(self, uint32_t e, uint64_t lo) except -1
    cdef bytes post_office(self)
    cdef int pass_on(self, Process p, Record *r, Holds holds) except -1
    cdef int passed(self, Process p) except -1
    cdef int not_passed(self, Process p, object error) except -1
    cdef int end_lost(self, list lost, uint32_t e, uint32_t inc, object reason) except -1
    cdef object error_in(self, Record *r)
    cdef bint try_move(self, Process p) except -1
    cdef bytes pack(self, Process p)
    cdef list unpack(self, Process p, bytes data)
    cdef int unpack_home(self, Process p, Record *r, Holds holds) except -1
    cdef int take_mail(self, Process p, list mail, Holds holds) except -1
    cdef bytes encoded_error(self, object error)
    cdef int signal_of_host(self, uint32_t e, Record *r, Holds holds) except -1
    cdef int begun(self, Process p) except -1
    cdef list mail_records(self, Process p, list held)
    cdef int ended(self, Process p, uint64_t passed) except -1
    cdef int forget(self, Process p) except -1
    cdef int lost_forwarded(self, Process p, Record *r) except -1
    cdef Process here_is(self, Pid pid)
    cdef object alias_of(self, Ref ref)
    cdef size_t wrap(self, void *at, Process sender, uint32_t e, uint32_t inc, int kind, int flags, int aux, const void *head, size_t nhead) except 0
    cdef bytes bytes_of(self, object value, bint user_code)
    cdef int call_thief(self) except -1
    cdef bint is_gone(self, Pid other, list believed)
    cdef bint gone_for(self, Process p, Pid other)
    cdef int answer_forwarded(self, dict some, Record *r) except -1
    cdef int wait_published(self, Process p) except -1
    cdef int restore_timers(self, Process p) except -1
    cdef int relay(self, Process p, int flags, int aux, bytes body) except -1
    cdef int relayed_end(self, uint64_t lo) except -1
    cdef int send_fence(self, uint32_t e, tuple fence) except -1
    cdef int after_hosts(self, uint32_t e) except -1
    cdef int thaw(self, Process p) except -1
    cdef Encoded pack_user(self, Process p)
    cdef int end_silently(self, Process p) except -1
    cdef int64_t nap(self) except -1
    cdef Process turn_of(self, Process p)
    cdef int arrive(self, uint32_t e, Record *r, Holds holds) except -1
    cdef uint64_t new_lo(self, Process p) noexcept
    # descriptors
    cdef int watch(self, Watch watch) except -1
    cdef int unwatch(self, Watch watch) except -1
    cdef int mute(self, Watch watch) except -1
    cdef int unmute(self, Watch watch) except -1
    # run queue and carriers
    cdef int enqueue(self, Process p) except -1
    cdef Process next_process(self)
    cdef Process pick(self)
    cdef int ticked(self, object frame) except -1
    cdef int where(self, object frame, const char **library) except -1
    cdef int unwind(self, Process p, object frame) except -1
    cdef int cut(self, Process p, object frame) except -1
    cdef Process a_janitor(self)
    cdef int collect_garbage(self) except -1
    cdef void show_count(self) noexcept
    cdef int show_load(self) except -1
    cdef int late(self, Process p, int64_t ns, int place, const char *library) except -1
    cdef int abandon(self, Process p) except -1
    cdef object offload(self, Process p, object function, tuple args, dict kwargs)
    cdef int switch_away(self, Process p) except -1
    cdef int block(self, Process p, int wait) except -1
    cdef int check(self, Process p) except -1
    cdef int spend(self, Process p) except -1
    cdef int run(self, Process p) except -1
    cdef int make_room(self, object error) except -1
    cdef bint advance(self, Process p) except -1
    cdef bint go_on(self, Process p) except -1
    cdef bint step(self, Process p) except -1
    cdef bint turn_callback(self, Process p) except -1
    cdef object enter(self, Process p)
    cdef int finish(self, Process p, object reason) except -1
    # transport
    cdef Outbox outbox(self, uint32_t e)
    cdef Inbox inbox(self, uint32_t e)
    cdef int reach(self, uint64_t hi) except -1
    cdef int wait_for_memory(self, Outbox box, uint32_t inc, int kind, int flags, int aux, const void *head, size_t nhead, bytes payload) except -1
    cdef int out_of_memory(self) except -1
    cdef int keep_ballast(self) except -1
    cdef int guard(self) except -1
    cdef bint guard_is_over(self, object frame) except -1
    cdef int tell_of_end(self, Process p, Extra extra, object reason) except -1
    cdef int poll(self, int64_t wait_ns) except -1
    cdef int turn_over(self, int64_t wait_ns) except -1
    cdef int drain(self, bint importing=*) except -1
    cdef void come_again(self, uint32_t e) noexcept
    cdef bint unpickles(self, Record *r) except -1
    cdef int drain_one(self, uint32_t e, uint64_t position=*, bint importing=*) except -1
    cdef int signal(self, uint32_t e, Record *r) except -1
    cdef int signal_lost(self, uint32_t e, Record *r) except -1
    cdef int flush(self) except -1
    cdef int fire_timers(self) except -1
    cdef bint settled(self, Outbox box, uint64_t most) except -1
    cdef int settle_blocks(self) except -1
    cdef int park(self, int64_t wait_ns) except -1
    cdef int hold_sender(self, Outbox box) except -1
    cdef int stop_processes(self, int phase) except -1
    # mail
    cdef object opened(self, object body)
    cdef int unreadable(self, Process p, object body, object error) except -1
    cdef object scan(self, Process p, tuple patterns)
    cdef int arm(self, Process p, double seconds) except -1
    cdef int disarm(self, Process p) except -1


cdef Encoded encoded(bytes data)
cdef Scheduler here()
cdef object own_context()
cdef Process me(Scheduler s)
cdef object NOT_FOUND
cdef object SUSPENDED
