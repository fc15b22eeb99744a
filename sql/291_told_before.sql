-- 291_told_before.sql: nothing that was asked for begins unless people were told a day before.

-- When the team was told that it comes soon; it begins a day later at the earliest. Null: not yet.
alter table pending_action add column soon_told_at timestamptz;

-- Those that were told of before this column was.
update pending_action set soon_told_at = notice.at, takes_effect_at = greatest(takes_effect_at, notice.at + interval '1 day')
from notice
where told_key = 'pending ' || pending_action.id || ' soon' and begun_at is null and done_at is null and cancelled_at is null;
