-- 038_queue.sql: what waits to be taken up, and how it is picked without a lock that anybody else waits for.

-- A row is an open wish that may be tried, or a queued job: from when it is wished for until it is served, from when it is
-- queued until it begins. It follows from one row alone, its repo's or its job's, by the triggers below and in the same
-- transaction, so no statement elsewhere can forget it. What depends on other rows is looked up by `dequeue`: who is at work
-- (run, lease), and which host is asked by whom. A wish stays here while it is served, as it may be renewed meanwhile.
create table queue (
  key       uuid primary key,             -- of the job, or of the repo whose wish it is
  repo_id   uuid        not null references repo on delete cascade,
  team_id   uuid        not null,
  job_id    uuid,                         -- null: a wish
  kind      text        not null,
  host      text        not null,         -- that is asked for objects; '': none
  heavy     boolean     not null,         -- it may take long
  priority  smallint    not null check (priority between 0 and 3),  -- asked for by a person, a push, a first backup, upkeep
  since     timestamptz not null,         -- it waits; ten minutes are worth one priority
  due_at    timestamptz,                  -- not before; null: at once
  said_at   timestamptz,                  -- who set due_at set it then or later; null with due_at
  ready     boolean     not null,         -- due_at is over; becomes true when `dequeue` notices
  has_job   boolean     not null default false,  -- a wish that an open job serves; corrected to false rather too often
  check ((due_at is null) = (said_at is null) and (ready or due_at is not null))
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
create index queue_lane on queue (team_id, host, heavy, priority, since, key) where ready and not has_job;
create index queue_at_host on queue (host, heavy, since, key) where ready and not has_job;
create index queue_later on queue (due_at) where not ready;
create index queue_doubted on queue (said_at) where not ready;
create index queue_of_repo on queue (repo_id);

-- A run at a host has one of its numbered places, and what is heavy one of the fewer for that: so many never become more,
-- whoever picks at the same moment. Null: no host, or begun by an older version.
alter table run
  add column place       smallint,
  add column heavy_place smallint;
create unique index run_place on run (host, place);
create unique index run_heavy_place on run (host, heavy_place);
create index run_of_team on run (team_id);

-- What the heartbeats ask every few seconds, about the few rows of which it is true.
create index job_running on job (id) where state = 'running';
create index repo_crashing on repo (crashes) where crashes > 0;
create index lease_taken on lease (owner) where owner is not null;

-- The host of an address, as written there; null: a path.
create function remote_host(url text) returns text language sql immutable as $$
  select substring(url from '^[a-z]+://(?:[^/@]*@)?(\[[^]]*\]|[^/:]+)')
$$;

-- The row that this repo's wish has in the queue; null: none is open, or it waits for somebody to change something.
-- What fails is tried again when it may; a new wish is one try, unless it takes other credentials. What is gone at its
-- forge is asked for as seldom as its failures say.
create function wish_in_queue(repo) returns queue language plpgsql stable as $$
declare
  entry queue;
begin
  if $1.wanted_at is not distinct from $1.synced_at or $1.paused_at is not null
    or $1.archived_at is not null and $1.failure_class is null
  then
    return null;
  end if;
  if $1.failure_class is null then
    entry.since := coalesce($1.behind_since, $1.wanted_at);
  elsif $1.failed_at < $1.wanted_at and ($1.failure_class <> 'credentials' or $1.retry_at is not null) then
    entry.since := least($1.wanted_at, $1.retry_at);
  elsif $1.retry_at is not null then
    entry.since := $1.retry_at;
    entry.due_at := $1.retry_at;
    entry.said_at := $1.failed_at;
  else
    return null;
  end if;
  entry.key := $1.id;
  entry.repo_id := $1.id;
  entry.team_id := $1.team_id;
  entry.kind := 'sync';
  entry.host := coalesce(remote_host($1.url), '');
  entry.heavy := $1.protected_as_of is null;
  entry.priority := case when entry.heavy then 2 else 1 end;
  entry.ready := entry.due_at is null;
  entry.has_job := false;
  return entry;
end
$$;

-- The row that this job has in the queue; null: it does not wait.
create function job_in_queue(job) returns queue language plpgsql stable as $$
declare
  entry queue;
  kept repo;
begin
  if $1.state <> 'queued' then
    return null;
  end if;
  select * into kept from repo where id = $1.repo_id;
  entry.key := $1.id;
  entry.repo_id := $1.repo_id;
  entry.team_id := kept.team_id;
  entry.job_id := $1.id;
  entry.kind := $1.kind;
  entry.host := case when $1.kind = 'sync' then coalesce(remote_host(kept.url), '') else '' end;
  entry.heavy := $1.kind <> 'sync' or kept.protected_as_of is null;
  entry.priority := case when $1.person_id is not null then 0 else 3 end;
  entry.since := coalesce($1.due_at, $1.queued_at);
  entry.due_at := $1.due_at;
  entry.said_at := $1.due_at;
  entry.ready := $1.due_at is null;
  entry.has_job := false;
  return entry;
end
$$;

-- Let a row be in the queue; where it is already, it keeps its place unless it is due at another time.
create function enqueue(entry queue) returns void language plpgsql as $$
begin
  insert into queue values (entry.*)
  on conflict (key) do update set
    team_id = excluded.team_id, host = excluded.host, heavy = excluded.heavy, priority = excluded.priority,
    since = case when queue.due_at = excluded.due_at then queue.since else excluded.since end,
    due_at = excluded.due_at, said_at = excluded.said_at,
    ready = excluded.ready or queue.ready and coalesce(queue.due_at = excluded.due_at, false);
end
$$;

-- A wish that is renewed while it waits changes nothing here, and touches no row.
create function repo_queues() returns trigger language plpgsql as $$
declare
  earlier queue;
  entry queue := wish_in_queue(new);
begin
  if tg_op = 'UPDATE' then
    earlier := wish_in_queue(old);
    if (old.url, old.team_id, old.protected_as_of is null) is distinct from (new.url, new.team_id, new.protected_as_of is null)
    then
      update queue set
        team_id = new.team_id,
        host = case when kind = 'sync' then coalesce(remote_host(new.url), '') else '' end,
        heavy = kind <> 'sync' or new.protected_as_of is null
      where repo_id = new.id and job_id is not null;
    end if;
  end if;
  if entry is not distinct from earlier then
    null;
  elsif entry.key is null then
    delete from queue where key = new.id;
  else
    perform enqueue(entry);
  end if;
  return null;
end
$$;
create trigger queues after insert or update of
  wanted_at, synced_at, behind_since, paused_at, archived_at, failure_class, failed_at, retry_at, protected_as_of, url, team_id
on repo for each row execute function repo_queues();

-- A wish whose repo has an open sync job is served by that: it is marked, so that nobody looks at it in vain. Two that end at
-- the same moment must not each leave the mark to the other, so the end of any takes it away; `dequeue` looks again.
create function job_queues() returns trigger language plpgsql as $$
declare
  was_open boolean := tg_op <> 'INSERT' and old.state in ('queued', 'running');
  is_open boolean := tg_op <> 'DELETE' and new.state in ('queued', 'running');
begin
  if tg_op <> 'DELETE' and new.state = 'queued' then
    perform enqueue(job_in_queue(new));
  elsif tg_op <> 'INSERT' and old.state = 'queued' then
    delete from queue where key = old.id;
  end if;
  if was_open <> is_open and coalesce(new.kind, old.kind) = 'sync' then
    update queue set has_job = is_open where key = coalesce(new.repo_id, old.repo_id) and has_job <> is_open;
  end if;
  return null;
end
$$;
create trigger queues after insert or delete or update of state, due_at, person_id
on job for each row execute function job_queues();

-- The queue as it should be.
create view queue_wanted as
  select entry.* from repo cross join lateral wish_in_queue(repo) entry
  where wanted_at is distinct from synced_at and entry.key is not null
  union all
  select entry.* from job cross join lateral job_in_queue(job) entry where state = 'queued';

-- Make the queue what it should be, and say how many rows were not. Safe to run twice, also while others work.
create function mend_queue() returns int language plpgsql as $$
declare
  mended int;
  more int;
begin
  delete from queue where not exists (select from queue_wanted wanted where wanted.key = queue.key);
  get diagnostics mended = row_count;
  perform enqueue(row(wanted.*)::queue) from queue_wanted wanted left join queue using (key)
  where queue.key is null
    or (queue.team_id, queue.host, queue.heavy, queue.priority, queue.due_at)
      is distinct from (wanted.team_id, wanted.host, wanted.heavy, wanted.priority, wanted.due_at);
  get diagnostics more = row_count;
  mended := mended + more;
  update queue set has_job = false where has_job and not exists (
    select from job where job.repo_id = queue.repo_id and job.kind = 'sync' and job.state in ('queued', 'running')
  );
  get diagnostics more = row_count;
  return mended + more;
end
$$;

-- What may begin as far as its own repo is concerned: nobody is at work on it.
create view startable as
select queue.* from queue
where ready and not has_job
  and (select true from run where run.key = queue.key) is null  -- each a probe: `not exists` would read all of them at times
  and (kind not in ('sync', 'compact') or (
    select true from run where run.repo_id = queue.repo_id and run.kind in ('sync', 'compact') limit 1
  ) is null and (
    select true from lease
    where lease.repo_id = queue.repo_id and owner is not null and beat_at > clock_timestamp() - interval '30 s'
  ) is null)
  and (job_id is not null or (
    select true from job where job.repo_id = queue.repo_id and job.kind = 'sync' and job.state in ('queued', 'running') limit 1
  ) is null);

-- A place of this host that is nobody's, held until this is committed; null: there is none, or those at hand are being taken.
create function free_place(at_host text, places int, of_heavy boolean) returns smallint language plpgsql as $$
declare
  number smallint;
begin
  for number in
    select generate_series(1, places) except select case when of_heavy then heavy_place else place end from run where host = at_host
    order by 1
  loop
    if pg_try_advisory_xact_lock(hashtextextended(format('place %s %s %s', of_heavy, number, at_host), 0)) then
      perform from run where host = at_host and case when of_heavy then heavy_place else place end = number;
      if not found then
        return number;
      end if;
    end if;
  end loop;
  return null;
end
$$;

-- The lanes after this one, as far as the last or the one after it: what waits of one team at one host, of one weight and
-- priority. Of each its first row; a lane costs a probe of the index, however long it is.
create function lanes_after(lane queue, last queue, most int) returns setof queue language plpgsql
as $$
begin
  return query
  with recursive walk as (
    (
      select * from queue
      where ready and not has_job and (team_id, host, heavy, priority) > (lane.team_id, lane.host, lane.heavy, lane.priority)
      order by team_id, host, heavy, priority limit 1
    )
    union all
    select next.* from walk cross join lateral (
      select * from queue
      where ready and not has_job and (team_id, host, heavy, priority) > (walk.team_id, walk.host, walk.heavy, walk.priority)
      order by team_id, host, heavy, priority limit 1
    ) next
    where last.team_id is null
      or (walk.team_id, walk.host, walk.heavy, walk.priority) < (last.team_id, last.host, last.heavy, last.priority)
  )
  select * from walk limit most;
end
$$;

-- The head of each of these lanes: the first that may begin and that this worker need not leave to another.
create function lane_heads(lanes queue[], moment timestamptz, shares int[], patience interval, passed uuid[])
returns setof queue language plpgsql
as $$
begin
  return query
  select head.* from unnest(lanes) lane cross join lateral (
    select startable.* from startable
    where startable.team_id = lane.team_id and startable.host = lane.host
      and startable.heavy = lane.heavy and startable.priority = lane.priority
      and (get_byte(uuid_send(repo_id), 0) = any (shares) or since <= moment - patience or since > moment)
      and key <> all (passed)
    order by since, key limit 1
  ) head;
end
$$;

-- Something that may begin, of any lane at a host that has a place: the oldest at the first such host.
create function head_anywhere(
  moment timestamptz, shares int[], patience interval, passed uuid[], full_hosts text[], heavy_hosts text[], heavy_too boolean
) returns queue language plpgsql
as $$
declare
  its_host text;
  is_heavy boolean;
  head queue;
begin
  select host, heavy into its_host, is_heavy from queue where ready and not has_job order by host, heavy limit 1;
  while found loop
    if its_host <> all (full_hosts) and not (is_heavy and (not heavy_too or its_host = any (heavy_hosts))) then
      select startable.* into head from startable
      where host = its_host and heavy = is_heavy
        and (get_byte(uuid_send(repo_id), 0) = any (shares) or since <= moment - patience or since > moment)
        and key <> all (passed)
      order by since, key limit 1;
      exit when found;
    end if;
    select host, heavy into its_host, is_heavy from queue
    where ready and not has_job and (host, heavy) > (its_host, is_heavy) order by host, heavy limit 1;
  end loop;
  return head;
end
$$;

-- Take up what is due, as much as there is room for, the fairest first, as README says ("What a worker does next"); with each
-- run the row of its job. It takes, again and again, of the team with the fewest runs at work what is first in that team.
--
-- 1. What was due later and is due by now becomes ready.
-- 2. The lanes are found, and the head of each: the first that may begin. A pick looks at so many lanes; where there are
--    more, at others each time, and where none of these may begin, at one of a host that has a place.
-- 3. The best head is claimed: nobody else may have it, and its host must have a place. The locks for this are tried, never
--    waited for, and held until this statement is committed. What other picks committed just before is seen by looking again
--    once the lock is held, and the keys of `run` refuse the rest. So a pick that hangs holds what it picked, and nothing else.
create function dequeue(
  by_worker text, moment timestamptz, room int, heavy_room int, shares int[], patience interval, at_host int, preferred uuid
) returns table (run_key uuid, run_repo uuid, run_kind text, run_heavy boolean, failing text, run_job job)
language plpgsql
-- Plans by the indexes, made once, whatever the statistics said when the queue was empty; also for what it calls.
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
declare
  most_lanes constant int := 128;
  heavy_at_host constant int := at_host - greatest(1, at_host / 4);
  anywhere constant uuid := gen_random_uuid();
  beginning queue;
  lowest queue;
  lanes queue[];
  heads queue[];
  passed uuid[] := '{}';
  full_hosts text[];  -- no place is free
  heavy_hosts text[];  -- none is free for what is heavy
  held_hosts text[] := '{}';  -- other picks are taking their last places
  held_heavy_hosts text[] := '{}';
  best queue;
  wish_is_open boolean;
  its_place smallint;
  its_heavy_place smallint;
begin
  -- 1. what is due by now
  with due as (select key from queue where not ready and due_at <= moment order by due_at limit 200 for update skip locked)
  update queue set ready = true from due where queue.key = due.key;
  with due as (  -- the clock was ahead
    select key from queue where not ready and said_at > moment + interval '1 hour' limit 200 for update skip locked
  )
  update queue set ready = true, since = moment from due where queue.key = due.key;

  -- 2. the lanes, from anywhere on and around: after any row, or after any team
  lowest.team_id := '00000000-0000-0000-0000-000000000000';
  lowest.host := '';
  lowest.heavy := false;
  lowest.priority := -1;
  if random() < 0.5 then
    select * into beginning from queue where key > anywhere order by key limit 1;
  end if;
  if beginning.key is null then
    beginning := lowest;
    beginning.team_id := anywhere;
  end if;
  lanes := array(select lanes_after(beginning, null, most_lanes));
  lanes := lanes || array(select lanes_after(lowest, beginning, most_lanes - cardinality(lanes)));
  heads := array(select lane_heads(lanes, moment, shares, patience, passed));
  if preferred is not null then
    heads := heads || array(
      select row(startable.*)::queue from startable where repo_id = preferred
        and (get_byte(uuid_send(repo_id), 0) = any (shares) or since <= moment - patience or since > moment)
    );
  end if;

  -- 3. claim after claim
  while room > 0 loop
    select
      coalesce(array_agg(host) filter (where runs >= at_host), '{}') || held_hosts,
      coalesce(array_agg(host) filter (where heavy_runs >= heavy_at_host), '{}') || held_heavy_hosts
    into full_hosts, heavy_hosts
    from (
      select host, count(*) as runs, count(*) filter (where heavy) as heavy_runs
      from run where host is not null group by host
    ) busy;

    select head.key, head.repo_id, head.team_id, head.job_id, head.kind, head.host, head.heavy, head.priority into
      best.key, best.repo_id, best.team_id, best.job_id, best.kind, best.host, best.heavy, best.priority
    from (
      select distinct on (team_id) *, repo_id is not distinct from preferred as is_preferred from unnest(heads)
      where host <> all (full_hosts) and not (heavy and (heavy_room <= 0 or host = any (heavy_hosts)))
      -- what is preferred is worth a priority more in its team
      order by
        team_id, since + (priority - (repo_id is not distinct from preferred)::int) * interval '10 min', key
    ) head
    left join (select team_id, count(*) as runs from run group by team_id) at_work using (team_id)
    order by
      coalesce(at_work.runs, 0), is_preferred desc, get_byte(uuid_send(repo_id), 0) = any (shares) desc, since, key
    limit 1;
    if best.key is null and cardinality(lanes) = most_lanes then
      best := head_anywhere(moment, shares, patience, passed, full_hosts, heavy_hosts, heavy_room > 0);
    end if;
    exit when best.key is null;
    passed := passed || best.key;
    heads := array(select head from unnest(heads) head where head.key <> best.key)
      || array(select lane_heads(array[best], moment, shares, patience, passed));

    continue when not pg_try_advisory_xact_lock(hashtextextended(
      format('run %s', case when best.kind in ('sync', 'compact') then best.repo_id else best.key end), 0
    ));
    perform from startable where key = best.key;
    continue when not found;
    select failure_class, wanted_at is distinct from synced_at into failing, wish_is_open
    from repo where id = best.repo_id for key share skip locked;
    continue when not found or best.job_id is null and not wish_is_open;

    its_place := null;
    its_heavy_place := null;
    if best.host <> '' then
      if best.heavy then
        its_heavy_place := free_place(best.host, heavy_at_host, true);
        if its_heavy_place is null then
          held_heavy_hosts := held_heavy_hosts || best.host;
          continue;
        end if;
      end if;
      its_place := free_place(best.host, at_host, false);
      if its_place is null then
        held_hosts := held_hosts || best.host;
        continue;
      end if;
    end if;

    run_job := null;
    if best.job_id is not null then
      update job set
        state = 'running', attempt = attempt + 1, started_at = moment, beat_at = clock_timestamp(), due_at = null
      where id = (select id from job where id = best.job_id and state = 'queued' for update skip locked)
      returning job.* into run_job;
      continue when not found;
    end if;
    insert into run (key, repo_id, team_id, job_id, kind, host, heavy, worker, began_at, place, heavy_place)
    values (
      best.key, best.repo_id, best.team_id, best.job_id, best.kind, nullif(best.host, ''), best.heavy,
      by_worker, moment, its_place, its_heavy_place
    );
    room := room - 1;
    heavy_room := heavy_room - best.heavy::int;
    run_key := best.key;
    run_repo := best.repo_id;
    run_kind := best.kind;
    run_heavy := best.heavy;
    return next;
  end loop;
end
$$;

select mend_queue();
update queue set has_job = true where job_id is null and exists (
  select from job where job.repo_id = queue.repo_id and job.kind = 'sync' and job.state in ('queued', 'running')
);
