-- 063_team_shares.sql: no team's runs keep a worker from everybody else's, however long they take.

-- How the slots of a worker are shared out is mirror/fair.py's: it says which teams may take up nothing now, and which nothing
-- that is heavy. `dequeue` passes these over, and says of each run whose it is. Its lanes are found as before (038_queue.sql),
-- but a team that is passed over costs a probe of the index, however many lanes it has.

drop function dequeue(text, timestamptz, int, int, int[], interval, int, uuid);
drop function lanes_after(queue, queue, int);
drop function head_anywhere(timestamptz, int[], interval, uuid[], text[], text[], boolean);

-- The lanes after this one, as far as the last or the one after it: what waits of one team at one host, of one weight and
-- priority. Of each its first row; a lane costs a probe of the index, however long it is. Of a team that is full
-- there is one lane at the most.
create function lanes_after(lane queue, last queue, most int, full_teams uuid[]) returns setof queue language plpgsql
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
      (
        select * from queue
        where walk.team_id <> all (full_teams)
          and ready and not has_job and (team_id, host, heavy, priority) > (walk.team_id, walk.host, walk.heavy, walk.priority)
        order by team_id, host, heavy, priority limit 1
      )
      union all
      (
        select * from queue
        where walk.team_id = any (full_teams) and ready and not has_job and team_id > walk.team_id
        order by team_id, host, heavy, priority limit 1
      )
    ) next
    where last.team_id is null
      or (walk.team_id, walk.host, walk.heavy, walk.priority) < (last.team_id, last.host, last.heavy, last.priority)
  )
  select * from walk limit most;
end
$$;

-- Something that may begin, of any lane at a host that has a place: the oldest at the first such host.
create function head_anywhere(
  moment timestamptz, shares int[], patience interval, passed uuid[], full_hosts text[], heavy_hosts text[], heavy_too boolean,
  full_teams uuid[], heavy_teams uuid[]
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
        and key <> all (passed) and team_id <> all (full_teams) and not (is_heavy and team_id = any (heavy_teams))
      order by since, key limit 1;
      exit when found;
    end if;
    select host, heavy into its_host, is_heavy from queue
    where ready and not has_job and (host, heavy) > (its_host, is_heavy) order by host, heavy limit 1;
  end loop;
  return head;
end
$$;

-- Take up what is due, as 038_queue.sql says; nothing of the teams that are full, and nothing heavy of those that have enough of
-- that.
create function dequeue(
  by_worker text, moment timestamptz, room int, heavy_room int, shares int[], patience interval, at_host int, preferred uuid,
  full_teams uuid[] default '{}', heavy_teams uuid[] default '{}'
) returns table (
  run_key uuid, run_repo uuid, run_team uuid, run_kind text, run_heavy boolean, failing text, run_job job
)
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
  lanes := array(select lanes_after(beginning, null, most_lanes, full_teams));
  lanes := lanes || array(select lanes_after(lowest, beginning, most_lanes - cardinality(lanes), full_teams));
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
      where host <> all (full_hosts) and team_id <> all (full_teams)
        and not (heavy and (heavy_room <= 0 or host = any (heavy_hosts) or team_id = any (heavy_teams)))
      -- what is preferred is worth a priority more in its team
      order by
        team_id, since + (priority - (repo_id is not distinct from preferred)::int) * interval '10 min', key
    ) head
    left join (select team_id, count(*) as runs from run group by team_id) at_work using (team_id)
    order by
      coalesce(at_work.runs, 0), is_preferred desc, get_byte(uuid_send(repo_id), 0) = any (shares) desc, since, key
    limit 1;
    if best.key is null and cardinality(lanes) = most_lanes then
      best := head_anywhere(moment, shares, patience, passed, full_hosts, heavy_hosts, heavy_room > 0, full_teams, heavy_teams);
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
    run_team := best.team_id;
    run_kind := best.kind;
    run_heavy := best.heavy;
    return next;
  end loop;
end
$$;
