-- 085_counters.sql: what /metrics counts for ever. These numbers never go down, also when the rows that they are about are pruned.

-- The upper bounds of the histograms of durations, in seconds. They never change: what is added up cannot be sorted anew.
create function duration_bounds() returns double precision[] language sql immutable as $$
  select array[0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 10800, 86400]::double precision[]
$$;

-- The bound of the bucket that a duration falls into: infinity above all, -infinity where it was not timed.
create function duration_bucket(seconds double precision) returns double precision language sql immutable as $$
  select case
    when $1 is null then '-infinity'
    else coalesce((select min(bound) from unnest(duration_bounds()) as bound where $1 <= bound), 'infinity')
  end
$$;

-- A row is something that happened and is not added up yet. Rows are only ever added, within the transaction of what
-- they tell of: they are exact, whichever process dies, and nobody waits for a row that others count by.
create table counted (
  id      bigint           primary key generated always as identity,
  what    text             not null check (what in ('job', 'delivery', 'push', 'drill')),
  kind    text             not null default '',  -- of the job or delivery
  outcome text             not null default '',  -- a job's last state; passed or failed, of a drill
  class   text             not null default '',  -- of the error; empty: none
  seconds double precision check (seconds >= 0)  -- how long it took; null: that has no meaning, or is not known
);

-- A row is how much of that was added up: all that is alike and fell into the same bucket. Whole numbers, as a sum of
-- fractions may come out smaller when it is made in another order.
create table counted_total (
  what         text             not null,
  kind         text             not null,
  outcome      text             not null,
  class        text             not null,
  bucket       double precision not null,         -- as duration_bucket has it
  number       bigint           not null,
  microseconds numeric(30)      not null,
  primary key (what, kind, outcome, class, bucket)
);

-- A job has ended, by whomever: its worker, somebody who cancelled it, or for want of another try.
create function count_ended_job() returns trigger language plpgsql as $$
begin
  insert into counted (what, kind, outcome, class, seconds)
  values (
    'job', new.kind, new.state, coalesce(new.failure_class, ''),
    greatest(extract(epoch from new.finished_at - new.started_at)::double precision, 0)
  );
  return null;
end $$;
create trigger count_ended_at_once after insert on job
  for each row when (new.finished_at is not null) execute function count_ended_job();
create trigger count_ended after update of finished_at on job
  for each row when (old.finished_at is null and new.finished_at is not null) execute function count_ended_job();

create function count_delivery() returns trigger language plpgsql as $$
begin
  insert into counted (what, kind) values ('delivery', new.kind);
  return null;
end $$;
create trigger count_delivery after insert on delivery for each row execute function count_delivery();

-- A push that a delivery told of is protected, or known to be lost: the first of its claims is answered, by the
-- transaction that records the snapshot. Both times are of now, by the clocks of the receiver and of the database.
create function count_push() returns trigger language plpgsql as $$
begin
  insert into counted (what, seconds)
  select 'push', greatest(extract(epoch from clock_timestamp() - received_at)::double precision, 0)
  from delivery where id = new.delivery_id;
  return null;
end $$;
create trigger count_push after update of open on claim
  for each row when (old.open and not new.open and new.position = 1) execute function count_push();

-- A drill was made; one that the vault told of was counted when it was.
create function count_drill() returns trigger language plpgsql as $$
begin
  insert into counted (what, outcome, seconds)
  values ('drill', case when cardinality(new.problems) = 0 then 'passed' else 'failed' end, new.seconds);
  return null;
end $$;
create trigger count_drill after insert on drill
  for each row when (not new.noted) execute function count_drill();

create index drill_by_time on drill (finished_at);  -- the newest one of all repos
