/*
 * Moving a shard between groups: the protocol, with everything that may go wrong on the way.
 *
 * The controller's log is the only judge; a group is its replicated state machine; a rule below is one entry applied.
 * Drivers have no state here: an order that some leader of the controller, present or past, may send can be delivered
 * from then on at any time, in any order, again or never. So every loss, repetition, delay, crash and fail-over is in.
 * Rules that change nothing are left out. Every other rule moves forward, so that there are no endless runs: "every
 * operation ends" is "when nothing can happen any more, it has ended".
 *
 * Sound as it stands; -D BUG_… takes a rule away, and then it has to fail (tools/model-check).
 * The words are those of the code, and Sources/ShardServer/ShardServer.docc/MoveModel.md explains the abstractions.
 */

#ifndef OPERATIONS
#define OPERATIONS 2  /* one after the other, from 1 */
#endif
#ifndef WRITES
#define WRITES 2      /* at most 3, of the one client, numbered from 1; each adds 1 to the one key, first 0 */
#endif
#ifndef PIECES
#define PIECES 1      /* first halves of values that are staged in an operation; each second one is a new leader's */
#endif
#define GROUPS 3
#define EPOCHS (OPERATIONS + 1)
#define TORN 100      /* a value made of two different ones */

/* ---- the controller's state machine ---- */

mtype = { unknown, begun, switched, aborted, done, cancelled }

typedef Operation {
  mtype state = unknown
  byte source
  byte destination
  byte epoch           /* of the shard before the operation */
  bool mayBeCancelled  /* so that runs that nobody cancels must end as well */
  bool isQuiet         /* what is still under way when it is over will never arrive */

  /* what happened to the source's log, so that a replica that lags can be read */
  bool isOpen          /* OPEN was applied */
  bool isFrozen        /* FREEZE was applied */
  byte first           /* changes of the key before OPEN */
  byte last            /* changes of the key so far, or before FREEZE */

  bool isComplete      /* the destination has said so to some driver */
  byte pieces
}
Operation op[OPERATIONS + 1]
byte operations        /* so many were begun */
byte mapEpoch = 1
byte owner[EPOCHS + 1] /* by epoch: the versions of the map */
bool isBorn            /* the first group has said that it took the shard */

#define isOver(o)    (op[o].state == done || op[o].state == cancelled)
#define canArrive(o) (op[o].state != unknown && !op[o].isQuiet)

/* ---- the groups' state machines ---- */

mtype = { none, open, frozen, released, resumed, receiving, adopted, discarded }

typedef Group {
  bool owns
  byte epoch
  byte fence           /* the last operation known here … */
  mtype phase = none   /* … and what became of it */
  byte value           /* of the key: so many writes were applied to it */
  byte answered        /* the session: the last write that was applied */

  /* staging */
  byte cursor          /* 0 nothing yet, 1 value, 2 value and session: the scan is over */
  byte tail            /* changes up to here are in */
  byte stagedValue
  byte stagedAnswered
  byte half            /* 1 + value whose first half is there */
  bool complete
}
Group group[GROUPS]

#define SOURCE      group[op[o].source]
#define DESTINATION group[op[o].destination]

#ifdef BUG_NO_FENCE
#define isNew(g) (g.fence != o)
#else
#define isNew(g) (g.fence < o)
#endif
#define isIn(g, p) (g.fence == o && g.phase == p)

#ifdef BUG_FREEZE_JUDGED_WHEN_PROPOSED  /* and an entry that was on its way is applied all the same */
#define serves(g) (g.owns)
#else
#define serves(g) (g.owns && g.phase != frozen)
#endif

inline enter(g, becomes) { g.fence = o; g.phase = becomes }

inline raise(g, becomes) {
  assert(becomes >= g.epoch);  /* the epoch of a group never goes back */
  g.epoch = becomes
}

inline forgetStaging(g) {
  g.cursor = 0; g.tail = 0; g.stagedValue = 0; g.stagedAnswered = 0; g.half = 0; g.complete = false
}

#define isServing(n) (group[n].owns && group[n].phase != frozen)
inline judgeOwners() {
  assert(isServing(0) + isServing(1) + isServing(2) <= 1)  /* never two groups serve the shard */
}

/* ---- what is proposed to the controller ---- */

inline begin(to) {
  operations++;
  op[operations].state = begun;
  op[operations].source = owner[mapEpoch];
  op[operations].destination = to;
  op[operations].epoch = mapEpoch
}

#ifdef BUG_TWO_AT_ONCE
#define nothingPending (operations == 0 || op[operations].epoch == mapEpoch || isOver(operations))
#else
#define nothingPending (operations == 0 || isOver(operations))
#endif
#ifdef BUG_BEGIN_BEFORE_BIRTH
#define mayBegin (operations < OPERATIONS && nothingPending)
#else
#define mayBegin (operations < OPERATIONS && nothingPending && isBorn)
#endif

proctype Operator() {
end:
  do
  :: atomic { mayBegin && owner[mapEpoch] != 0 -> begin(0); if :: op[operations].mayBeCancelled = true :: skip fi }
  :: atomic { mayBegin && owner[mapEpoch] != 1 -> begin(1); if :: op[operations].mayBeCancelled = true :: skip fi }
  :: atomic { mayBegin && owner[mapEpoch] != 2 -> begin(2); if :: op[operations].mayBeCancelled = true :: skip fi }
  od
}

inline setOwner(g) {
  assert(mapEpoch == op[o].epoch);  /* switched and aborted exclude each other: an epoch has one owner */
  mapEpoch = op[o].epoch + 1; owner[mapEpoch] = g
}

#ifdef BUG_ABORT_AFTER_SWITCH
#define mayAbort (op[o].state == begun || op[o].state == switched)
#else
#define mayAbort (op[o].state == begun)
#endif
#ifdef BUG_SWITCH_AFTER_ABORT
#define maySwitch (op[o].state == begun || op[o].state == aborted)
#else
#define maySwitch (op[o].state == begun)
#endif
#ifdef BUG_SWITCH_WITHOUT_COMPLETE  /* no harm as long as ADOPT refuses and RELEASE waits for it */
#define ANY_ORDER
#endif
#if defined(BUG_SWITCH_WITHOUT_COMPLETE) || defined(BUG_ADOPT_INCOMPLETE)
#define hasSaidComplete (isIn(DESTINATION, receiving) && DESTINATION.cursor == 2 && op[o].isFrozen)
#else
#define hasSaidComplete op[o].isComplete
#endif
#ifdef BUG_DONE_EARLY
#define sourceHasReleased true
#else
#define sourceHasReleased isIn(SOURCE, released)
#endif
#ifdef BUG_CANCELLED_EARLY
#define sourceHasResumed true
#else
#define sourceHasResumed isIn(SOURCE, resumed)
#endif
#ifdef BUG_DISCARD_UNHEARD_IGNORED
#define destinationHasDiscarded (DESTINATION.fence < o || isIn(DESTINATION, discarded))
#else
#define destinationHasDiscarded isIn(DESTINATION, discarded)
#endif
#ifdef BUG_RESUME_UNHEARD_IGNORED
#define mayCancel ((SOURCE.fence < o || sourceHasResumed) && destinationHasDiscarded)
#else
#define mayCancel (sourceHasResumed && destinationHasDiscarded)
#endif

/* Steps by any driver, from what it was told once. */
proctype Steps(byte o) {
end:
  do
  :: atomic { maySwitch && hasSaidComplete -> op[o].state = switched; setOwner(op[o].destination) }
  :: atomic { mayAbort && op[o].mayBeCancelled -> op[o].state = aborted; setOwner(op[o].source) }
  :: atomic { op[o].state == switched && isIn(DESTINATION, adopted) && sourceHasReleased -> op[o].state = done }
  :: atomic { op[o].state == aborted && mayCancel -> op[o].state = cancelled }
  :: atomic { isOver(o) && !op[o].isQuiet -> op[o].isQuiet = true }
  od
}

/* ---- orders that arrive ---- */

#ifdef ANY_ORDER  /* the groups are safe whatever the order in which a driver proceeds */
#define mayReceive true
#define mayFreeze  true
#define mayRelease (op[o].state == switched || op[o].state == done)
#else
#define mayReceive op[o].isOpen
#define mayFreeze  (op[o].state != begun || isIn(DESTINATION, receiving) && DESTINATION.cursor == 2)
#define mayRelease (op[o].state == switched && isIn(DESTINATION, adopted) || op[o].state == done)
#endif
#ifdef BUG_RELEASE_BEFORE_SWITCH
#undef mayRelease
#define mayRelease (op[o].isComplete || op[o].state == switched || op[o].state == done)
#endif
#define mayResume (op[o].state == aborted || op[o].state == cancelled)
#define mayAdopt  (op[o].state == switched || op[o].state == done)

#ifdef BUG_FREEZE_AFTER_RESUME
#define canFreeze (isIn(SOURCE, open) || isIn(SOURCE, resumed))
#else
#define canFreeze isIn(SOURCE, open)
#endif
#define isSource (isIn(SOURCE, open) || isIn(SOURCE, frozen))
#ifdef BUG_STALE_RELEASE
#define canRelease (SOURCE.fence != o || isSource)
#else
#define canRelease (isNew(SOURCE) || isSource)
#endif
#if defined(BUG_RESUME_UNHEARD_IGNORED)
#define canResume isSource
#elif defined(BUG_STALE_RESUME)
#define canResume (SOURCE.fence != o || isSource)
#else
#define canResume (isNew(SOURCE) || isSource)
#endif
#if defined(BUG_RECEIVE_AGAIN)
#define canReceive (isNew(DESTINATION) || isIn(DESTINATION, discarded))
#elif defined(BUG_STALE_RECEIVE)
#define canReceive (DESTINATION.fence != o)
#else
#define canReceive isNew(DESTINATION)
#endif
#if defined(BUG_DISCARD_UNHEARD_IGNORED)
#define canDiscard isIn(DESTINATION, receiving)
#elif defined(BUG_STALE_DISCARD)
#define canDiscard (DESTINATION.fence != o || isIn(DESTINATION, receiving))
#else
#define canDiscard (isNew(DESTINATION) || isIn(DESTINATION, receiving))
#endif
#ifdef BUG_ADOPT_INCOMPLETE
#define canAdopt isIn(DESTINATION, receiving)
#else
#define canAdopt (isIn(DESTINATION, receiving) && DESTINATION.complete)
#endif
#ifdef BUG_UNFREEZE_WITHOUT_EPOCH
#define epochOfResume op[o].epoch
#else
#define epochOfResume (op[o].epoch + 1)
#endif

proctype Orders(byte o) {
end:
  do
  :: atomic { canArrive(o) && isNew(SOURCE) && serves(SOURCE) && SOURCE.epoch == op[o].epoch ->
      enter(SOURCE, open);
      op[o].isOpen = true; op[o].first = SOURCE.value; op[o].last = SOURCE.value }

  :: atomic { canArrive(o) && mayReceive && canReceive && !DESTINATION.owns ->
      enter(DESTINATION, receiving); forgetStaging(DESTINATION) }

  :: atomic { canArrive(o) && mayFreeze && canFreeze ->
      enter(SOURCE, frozen); op[o].isFrozen = true }

  :: atomic { canArrive(o) && mayAdopt && canAdopt ->
      enter(DESTINATION, adopted); raise(DESTINATION, op[o].epoch + 1);
      DESTINATION.owns = true;
      DESTINATION.value = DESTINATION.stagedValue; DESTINATION.answered = DESTINATION.stagedAnswered;
      forgetStaging(DESTINATION); judgeOwners() }

  :: atomic { canArrive(o) && mayRelease && canRelease ->
      enter(SOURCE, released); raise(SOURCE, op[o].epoch + 1);
      SOURCE.owns = false; SOURCE.value = 0; SOURCE.answered = 0 }

  :: atomic { canArrive(o) && mayResume && canResume ->
      enter(SOURCE, resumed); raise(SOURCE, epochOfResume); judgeOwners() }

  :: atomic { canArrive(o) && mayResume && canDiscard ->
      enter(DESTINATION, discarded); raise(DESTINATION, op[o].epoch + 1); forgetStaging(DESTINATION) }

#ifdef BUG_UNFREEZE_ON_TIMER
  :: atomic { isIn(SOURCE, frozen) -> enter(SOURCE, resumed); judgeOwners() }
#endif
  od
}

/* The shard's first home takes it; the order may come late, or again. */
#ifdef BUG_LATE_INSTALL
#define canInstall (!group[0].owns)
#else
#define canInstall (!group[0].owns && group[0].epoch == 0)
#endif
proctype Install() {
end:
  do
  :: atomic { canInstall -> group[0].owns = true; group[0].epoch = 1; isBorn = true; judgeOwners() }
  od
}

/* ---- copying: ReadMove from any replica of the source, STAGE into the destination's log ---- */

/*
 * A replica that has applied `a` changes answers with the values as of then; a chunk may come late, from a leader that
 * is gone: its number lets it in only while the staging is as it was when it was asked for.
 */
#define isReadable(a) (op[o].isOpen && !isIn(SOURCE, released) && op[o].first <= a && a <= op[o].last)
#define isStaging     (isIn(DESTINATION, receiving) && !DESTINATION.complete)
#ifdef BUG_OLD_VALUES  /* a batch with values that are older than its changes */
#define coversTail(c, a) (DESTINATION.tail < c && c <= op[o].last)
#else
#define coversTail(c, a) (DESTINATION.tail < c && c <= a)
#endif
#ifdef BUG_TORN_VALUE  /* a value that begins anew is taken for the rest of the unfinished one */
#define whole(a) (DESTINATION.half == 0 || DESTINATION.half == a + 1 -> a : TORN)
#else
#define whole(a) a
#endif
#ifdef BUG_TAIL_FROM_END_OF_SCAN
#define firstOfTail op[o].last
#else
#define firstOfTail op[o].first
#endif
#ifdef BUG_SESSION_LEFT_BEHIND
#define sessionAt(a) 0
#else
#define sessionAt(a) a
#endif
#ifdef BUG_COMPLETE_BEFORE_FREEZE
#define mayBeComplete (op[o].isOpen)
#else
#define mayBeComplete (op[o].isFrozen)
#endif

inline stageValue(a) { DESTINATION.stagedValue = whole(a); DESTINATION.half = 0 }

#define SCAN(a) \
  :: atomic { isStaging && DESTINATION.cursor == 0 && isReadable(a) -> stageValue(a); DESTINATION.cursor = 1 } \
  :: atomic { isStaging && DESTINATION.cursor == 1 && isReadable(a) -> \
      DESTINATION.stagedAnswered = sessionAt(a); DESTINATION.cursor = 2; DESTINATION.tail = firstOfTail }

/* of the scan, or of a batch of the tail: changes that are not in yet, so never from a replica that is behind it */
#define hasPiece(a) (isReadable(a) && (DESTINATION.cursor == 0 || DESTINATION.cursor == 2 && DESTINATION.tail < a))
#define FIRST_HALF(a) \
  :: atomic { isStaging && op[o].pieces < PIECES && hasPiece(a) -> \
      DESTINATION.half = (DESTINATION.half == 0 || whole(a) == a -> a + 1 : TORN + 1); op[o].pieces++ }

#define TAIL(c, a) \
  :: atomic { isStaging && DESTINATION.cursor == 2 && isReadable(a) && coversTail(c, a) -> \
      stageValue(a); DESTINATION.stagedAnswered = sessionAt(a); DESTINATION.tail = c }

#define LATE_CHUNK(a) \
  :: atomic { isStaging && DESTINATION.cursor == 2 && isReadable(a) && DESTINATION.stagedValue != a -> stageValue(a) }

proctype Copying(byte o) {
end:
  do
  SCAN(0) SCAN(1) SCAN(2) SCAN(3)
  FIRST_HALF(0) FIRST_HALF(1) FIRST_HALF(2) FIRST_HALF(3)
  TAIL(1, 0) TAIL(1, 1) TAIL(1, 2) TAIL(1, 3) TAIL(2, 0) TAIL(2, 1) TAIL(2, 2) TAIL(2, 3)
  TAIL(3, 0) TAIL(3, 1) TAIL(3, 2) TAIL(3, 3)
#ifdef BUG_NO_CHUNK_NUMBER
  LATE_CHUNK(0) LATE_CHUNK(1) LATE_CHUNK(2) LATE_CHUNK(3)
#endif
  /* the second half, from the leader that staged the first */
  :: atomic { isStaging && DESTINATION.half != 0 ->
      DESTINATION.stagedValue = DESTINATION.half - 1; DESTINATION.half = 0;
      if :: DESTINATION.cursor == 0 -> DESTINATION.cursor = 1 :: else fi }
  :: atomic { isStaging && DESTINATION.cursor == 2 && mayBeComplete && DESTINATION.tail == op[o].last ->
      DESTINATION.half = 0; DESTINATION.complete = true; op[o].isComplete = true }
  od
}

/* ---- the client ---- */

byte executed          /* writes that were applied somewhere; each has answered, if the answer was not lost */
byte acknowledged      /* writes whose answer the client has; the next one is sent until it is answered too */
byte seen              /* the highest value that was read */

/* Requests under one epoch of the map: they may arrive as long as they like, again, or never. */
proctype Requests(byte epoch) {
  byte g               /* the group that the map names */
end:
  do
  :: atomic { epoch <= mapEpoch && serves(group[owner[epoch]]) && group[owner[epoch]].epoch == epoch &&
        group[owner[epoch]].answered <= acknowledged && group[owner[epoch]].answered < WRITES ->
      g = owner[epoch];
      group[g].value++; group[g].answered++;
      assert(group[g].answered == executed + 1);          /* no write is applied twice */
      assert(group[g].value == group[g].answered);        /* no acknowledged write is lost */
      executed = group[g].answered;
      if :: group[g].phase == open -> op[group[g].fence].last = group[g].value :: else fi;
      g = 0 }

  :: atomic { epoch <= mapEpoch && serves(group[owner[epoch]]) && group[owner[epoch]].epoch == epoch &&
        (group[owner[epoch]].value != seen || group[owner[epoch]].value < acknowledged) ->
      g = owner[epoch];
      assert(group[g].value >= acknowledged);             /* a read sees every acknowledged write */
      assert(group[g].value >= seen);                     /* a read sees what was read before */
      assert(group[g].value <= executed);                 /* a read sees nothing that was not written */
      seen = group[g].value;
      g = 0 }
  od
}

proctype Answers() {
end:
  do
  :: acknowledged < executed -> acknowledged++
  od
}

/* ---- when nothing can happen any more ---- */

#define isLeft(n) (group[n].phase == receiving)
active proctype Ending() {
  byte home
  timeout;
  home = owner[mapEpoch];
  assert(operations == OPERATIONS && isOver(OPERATIONS));  /* every operation ends */
  assert(isServing(home) && group[home].epoch == mapEpoch);  /* in the end the owner in the map serves */
  assert(acknowledged == WRITES);                          /* every write is answered */
  assert(group[0].owns + group[1].owns + group[2].owns == 1);  /* in the end one group has the shard */
  assert(group[home].value == WRITES && group[home].answered == WRITES);  /* nothing was lost, nothing came twice */
  assert(!isLeft(0) && !isLeft(1) && !isLeft(2))           /* no staging is left */
}

init {
  byte n = 1;
  atomic {
    run Operator(); run Install(); run Answers();
    do
    :: n <= OPERATIONS -> run Steps(n); run Orders(n); run Copying(n); run Requests(n); n++
    :: else -> break
    od;
    run Requests(n); n = 0
  }
}
