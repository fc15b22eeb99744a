-- 120_rpo.sql: how old the newest backup of a repo may be (its recovery point objective, RPO), and which repos are outside of it.

create domain objective as interval check (value between interval '5 minutes' and interval '60 days');

alter table team
  add column rpo objective not null default interval '24 hours';
alter table repo
  add column rpo       objective,                                      -- null: the team's
  add column objective objective not null default interval '24 hours'; -- the one that counts: its own or its team's, by the triggers below

create function own_objective() returns trigger language plpgsql as $$
begin
  new.objective := coalesce(new.rpo, (select rpo from team where id = new.team_id));
  return new;
end $$;
create trigger own_objective before insert or update of rpo, team_id on repo
  for each row execute function own_objective();

create function teams_objective() returns trigger language plpgsql as $$
begin
  update repo set objective = new.rpo where team_id = new.id and rpo is null and objective <> new.rpo;
  return null;
end $$;
create trigger teams_objective after update of rpo on team
  for each row when (old.rpo is distinct from new.rpo) execute function teams_objective();

-- A repo is checked at least twice within its objective, whatever its schedule says. Where somebody chose a longer schedule
-- before there were objectives, the schedule stands, and the objective is what it can reach.
update repo set rpo = least(interval '60 days', 2 * case
  when schedule ~ '^[0-9]{1,6}[mhd]$' then schedule::interval
  else coalesce(cron_gap, interval '12 hours')
end)
where schedule is not null and case
  when schedule ~ '^[0-9]{1,6}[mhd]$' then schedule::interval
  else coalesce(cron_gap, interval '12 hours')
end > interval '12 hours';

-- How old what a repo has may be.
create function repo_rpo(repo) returns interval language sql stable as $$
  select $1.objective::interval
$$;

-- Since when what is saved of a repo is not all that its host may have: since its host last said what is stored here, or since
-- the oldest push that waits, whichever is earlier; where nothing was ever saved, since it was added.
create function unsaved_since(repo) returns timestamptz language sql stable as $$
  select least(
    coalesce($1.protected_as_of, $1.created_at),
    case when $1.wanted_at is distinct from $1.synced_at then $1.behind_since end
  )
$$;

-- Whether more could be lost of a repo at that moment than its objective allows. Never where somebody paused it or it is gone at its
-- host: nobody expects more of it. Always where its backup is damaged.
create function is_outside_rpo(repo, at timestamptz) returns boolean language sql stable as $$
  select $1.archived_at is null and $1.paused_at is null
    and ($1.damaged_at is not null or unsaved_since($1) < $2 - repo_rpo($1))
$$;

-- An interval in words: 15 minutes, 24 hours, 7 days.
create function in_words(interval) returns text language sql immutable as $$
  select many || ' ' || unit || case when many = 1 then '' else 's' end from (
    select case
      when seconds % 86400 = 0 and seconds > 86400 then seconds / 86400
      when seconds % 3600 = 0 then seconds / 3600
      else seconds / 60
    end as many, case
      when seconds % 86400 = 0 and seconds > 86400 then 'day'
      when seconds % 3600 = 0 then 'hour'
      else 'minute'
    end as unit
    from (select extract(epoch from $1)::bigint as seconds) asked
  ) said
$$;

-- As in 099; a repo is checked at least twice within its objective, so that it is overdue by the end of it at the latest.
create or replace function checked_by(repo) returns timestamptz language sql stable as $$
  select $1.protected_as_of + least($1.objective * 0.75 + least(interval '1 hour', $1.objective / 4), interval '1 hour' + case
    when $1.schedule ~ '^[0-9]{1,6}[mhd]$' then $1.schedule::interval * 1.5
    when $1.schedule is not null then coalesce($1.cron_gap, interval '31 days')
    when $1.protected_as_of - coalesce($1.changed_at, $1.created_at) >= interval '24 days' then interval '36 hours'
    when $1.protected_as_of - coalesce($1.changed_at, $1.created_at) >= interval '12 days' then interval '18 hours'
    when $1.protected_as_of - coalesce($1.changed_at, $1.created_at) >= interval '4 days' then interval '6 hours'
    when $1.protected_as_of - coalesce($1.changed_at, $1.created_at) >= interval '1 day' then interval '90 minutes'
    when $1.protected_as_of - coalesce($1.changed_at, $1.created_at) >= interval '6 hours' then interval '22 minutes 30 seconds'
    else interval '7 minutes 30 seconds'
  end)
$$;

-- The repos of a team that need somebody, each with its cause and since when. Causes are damage; token:ID of the connection;
-- CLASS:HOST of the error; late (a push waits); unchecked (nobody looks); behind (outside its objective, for none of these reasons);
-- archived (for 30 days); hook:HOST.
create or replace function troubled(team uuid, at timestamptz)
returns table (repo_id uuid, cause text, name text, since timestamptz, detail text, unsaved boolean)
language sql stable as $$
  with found as (
    select repo.*, case
      when damaged_at is not null then 'damage'
      when archived_at is not null then case when archived_at > $2 - interval '30 days' then 'archived' end
      when paused_at is not null then null
      when refused_at is not null then 'token:' || connection_id
      when failure_class is not null then failure_class || ':' || coalesce(host, '')
      when is_late(repo, $2) then case when wanted_at is distinct from synced_at then 'late' else 'unchecked' end
      when is_outside_rpo(repo, $2) then 'behind'
    end as cause
    from repo where team_id = $1
  )
  select
    id, cause, name,
    case
      when cause = 'damage' then damaged_at
      when cause = 'archived' then archived_at
      when cause = 'late' then behind_since
      when cause = 'unchecked' then protected_as_of
      when cause = 'behind' then least(
        coalesce(protected_as_of, created_at), case when wanted_at is distinct from synced_at then behind_since end
      )
      when cause like 'token:%' then refused_at
      else failing_since
    end,
    case
      when cause = 'damage' then damage
      when cause = 'behind' then 'its recovery point objective is ' || in_words(objective)
      when cause in ('archived', 'late', 'unchecked') then url
      else failure_message
    end,
    protected_as_of is null
  from found
  where cause is not null and not (cause = 'archived' and exists (
    select from settled where settled.repo_id = found.id and kind = 'archived' and settled.at >= archived_at
  ))
  union all
  select repo.id, 'hook:' || coalesce(repo.host, hook.forge), repo.name, null, hook.why, false
  from hook join repo on repo.id = hook.repo_id
  where repo.team_id = $1 and hook.state in ('disabled', 'refused') and repo.archived_at is null and repo.paused_at is null
    and not hook_settled(hook)
$$;
