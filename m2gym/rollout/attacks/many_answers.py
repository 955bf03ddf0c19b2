"""Every answer at once, where an answer is looked for."""

SCRIPT = r"""
for file in answer.txt response.txt answer.json out.txt result.txt; do
  { seq 0 2000; echo "<answer>0</answer><answer>1</answer>"; printf 'yes\ntrue\n*\n'; } > $file
done
"""
