-- 070_damage.sql: which repos are known to be damaged in the vault, and since when.

-- What a verification or a drill last found broken or missing; it ends when a verification finds nothing. null: nothing is known.
-- damage_drilled is the latest snapshot whose drill found it, where no verification did: a drill of that one or a later one that
-- finds nothing ends it too. null: a verification found it.
alter table repo
  add column damaged_at     timestamptz,     -- when it was last found
  add column damage         text,            -- in one line
  add column damage_drilled snapshot_number,
  add constraint repo_damage check ((damaged_at is null) = (damage is null) and (damage_drilled is null or damaged_at is not null));

-- What the last drill of each repo found is known before the first verification that is remembered here.
update repo set damaged_at = finished_at, damage = problems[1], damage_drilled = snapshot
from (select distinct on (repo_id) * from drill order by repo_id, finished_at desc, id desc) as latest
where latest.repo_id = repo.id and cardinality(problems) > 0;

-- The first of these that is true.
-- damaged: what is kept of it was found broken in the vault; whatever else is true of it, not all of it can be restored.
-- archived: it is gone at its forge; what is kept stays.
-- never: no run ever protected it; its first backup may be under way, or have failed.
-- failing: it is protected as of an earlier time, and the last run failed.
-- behind: the last run went well, and somebody has asked for another since.
-- protected: what its remote said when last asked is stored.
create or replace function repo_state(repo) returns text language sql stable as $$
  select case
    when $1.damaged_at is not null then 'damaged'
    when $1.archived_at is not null then 'archived'
    when $1.protected_as_of is null then 'never'
    when $1.failure_class is not null then 'failing'
    when $1.wanted_at is distinct from $1.synced_at then 'behind'
    else 'protected'
  end
$$;
